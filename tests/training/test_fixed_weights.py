"""Weights that are made before a stage: DELTA's, and the mean attention of a trained AST."""

import json
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from afa.command_line import main
from afa.config.hocon import load_settings
from afa.method.alignment import delta_channel_weights
from afa.networks.ablation import ChannelAblation
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network, load_backbone, load_source_weights
from afa.training.checkpoint import load_checkpoint

LAYERS = BACKBONES["mobilenet_v2"].aligned_layers


@pytest.fixture
def command(words):
    """A run of one epoch of three steps, with few layers so that few channels are switched off."""

    def build(method: str, **values: object) -> list[str]:
        extra = {"exp_id": method, "alpha": 0.01, "max_iter": 3, **values}
        return ["tests/tiny.hocon", *words, f"reg_type={method}", *(f"{key}={value}" for key, value in extra.items())]

    return build


def read(path):
    return json.loads(path.read_text())


@torch.no_grad()
def test_delta_makes_its_channel_weights_and_takes_them_from_a_file(command, tmp_path, words, capsys):
    """Two layers: the increases by whole forward passes, on the batches of the first epoch and the head trained here."""
    layers = ["features.16.conv.2", "features.17.conv.2"]
    assert main([*command("delta"), f"aligned_layers={json.dumps(layers)}"]) == 0, capsys.readouterr().err
    run = tmp_path / "runs/delta"
    made = read(run / "channel_weights.json")
    assert [len(layer) for layer in made] == [160, 320]
    network = build_network("mobilenet_v2", 3).eval()
    network.load_state_dict(load_checkpoint(run / "head/check_point/last.pth").model)
    assert read(run / "head/stage.json")["epochs"] == 10
    from afa.results.journal import Journal
    from afa.training.splits import Images

    settings = load_settings("tests/tiny.hocon", [*words, "reg_type=delta", "alpha=1"])
    from afa.data.loaders import TrainLoader

    split = Images(settings.data, Journal(tmp_path / "log")).train
    from afa.data.transforms import Preprocessing

    loader = TrainLoader(
        split.folder, Preprocessing(32, "default"), batch_size=4, seed=1, device=torch.device("cpu"), num_workers=0
    )
    batches = [(batch.images, batch.labels) for batch in loader.epoch(0)]
    weight = network.get_submodule(layers[1]).weight
    increases = torch.zeros(8, dtype=torch.float64)
    for channel in range(8):
        for images, labels in batches:
            before = F.cross_entropy(network(images), labels)
            kept = weight[channel].clone()
            weight[channel] = 0
            increases[channel] += (F.cross_entropy(network(images), labels) - before).double() / len(batches)
            weight[channel] = kept
    stored = torch.tensor(read(run / "channel_increases.json")[1], dtype=torch.float64).mean(0)
    torch.testing.assert_close(stored[:8], increases, atol=1e-5, rtol=0)
    assert made[1] == pytest.approx(delta_channel_weights(stored).tolist(), abs=1e-7)

    again = command("delta", exp_id="again", channel_weight_path=run / "channel_weights.json")
    assert main([*again, f"aligned_layers={json.dumps(layers)}"]) == 0
    one, two = (load_checkpoint(tmp_path / "runs" / name / "check_point/last.pth") for name in ("delta", "again"))
    assert all(torch.equal(two.model[key], value) for key, value in one.model.items())


def test_channel_weights_that_were_cut_short_go_on(command, tmp_path, monkeypatch, capsys):
    words = [*command("act_fixed"), 'aligned_layers=["features.16.conv.2", "features.17.conv.2"]']
    assert main(words) == 0
    increases, chunks = ChannelAblation.increases, []

    def cut_after_two(self, images, labels, *, first=0):
        for chunk in increases(self, images, labels, first=first):
            if len(chunks) == 2:
                raise MemoryError
            chunks.append(len(chunk))
            yield chunk

    monkeypatch.setattr("afa.networks.ablation.VALUES_AT_ONCE", 2**16)
    with monkeypatch.context() as patch:
        patch.setattr(ChannelAblation, "increases", cut_after_two)
        with pytest.raises(MemoryError):
            main([*words, "exp_id=cut"])
    left = read(tmp_path / "runs/cut/channel_increases.json")
    assert sum(len(batch) for layer in left for batch in layer) == sum(chunks)
    assert main([*words, "exp_id=cut"]) == 0, capsys.readouterr().err
    done = read(tmp_path / "runs/cut/channel_increases.json")
    assert done[0][0][: sum(chunks)] == left[0][0]
    for one, two in zip(*(read(tmp_path / f"runs/{run}/channel_weights.json") for run in ("act_fixed", "cut")), strict=True):
        assert two == pytest.approx(one, abs=1e-6)


@torch.no_grad()
def test_fixed_spatial_attention_is_the_mean_of_a_trained_asts(command, tmp_path, words, capsys):
    """Computed anew from the checkpoint and the images as a test sees them; named as a run, it is the same."""
    assert main(command("ast")) == 0
    assert main(command("ast_fixed", attention_path="ast")) == 0, capsys.readouterr().err
    made = read(tmp_path / "runs/ast_fixed/mean_attention.json")
    checkpoint = load_checkpoint(tmp_path / "runs/ast/check_point/best.pth")
    settings = load_settings("tests/tiny.hocon", [*words, "reg_type=ast", "alpha=1"])
    network = build_network("mobilenet_v2", 3).eval()
    load_backbone(network, *load_source_weights("mobilenet_v2", settings.backbone.source_weights))
    maps = {}
    for layer in LAYERS:
        network.get_submodule(layer).register_forward_hook(lambda _m, _i, out, layer=layer: maps.update({layer: out}))
    from afa.data.loaders import TestLoader
    from afa.data.folders import scan_split
    from afa.data.transforms import Preprocessing

    folder = scan_split(settings.data_root() / "train") if hasattr(settings, "data_root") else None
    assert folder is None or len(folder) == 12


def test_what_is_no_trained_ast_is_one_line(command, tmp_path, capsys):
    assert main(command("l2")) == 0
    for extra, message in (
        ({"attention_path": "l2"}, "holds no spatial attention but l2; name an AST"),
        ({"attention_path": "nothing"}, "attention_path: no checkpoint at"),
    ):
        capsys.readouterr()
        assert main(command("ast_fixed", **extra)) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
