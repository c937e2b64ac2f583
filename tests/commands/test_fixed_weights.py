"""Weights that are made before a stage: DELTA's, and the mean attention of a trained AST."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from afa.command_line import main
from afa.commands import delta_weights
from afa.commands.dry_run import estimate_run
from afa.commands.fixed_weights import load_layer_weights
from afa.config.hocon import load_settings
from afa.data import loaders
from afa.data.folders import scan_split
from afa.data.transforms import Preprocessing
from afa.errors import CheckpointError
from afa.method.alignment import delta_channel_weights
from afa.networks import ablation
from afa.networks.ablation import ChannelAblation
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network, load_backbone, load_source_weights
from afa.training.checkpoint import load_checkpoint

LAYERS = ["features.16.conv.2", "features.17.conv.2"]  # 160 and 320 channels
LOADING = {"batch_size": 4, "device": torch.device("cpu"), "num_workers": 0}


@pytest.fixture
def command(words) -> Callable[..., list[str]]:
    """A run of one epoch of three steps."""

    def build(method: str, **values: object) -> list[str]:
        extra = {"exp_id": method, "alpha": 0.01, "max_iter": 3, **values}
        return ["tests/tiny.hocon", *words, f"reg_type={method}", *(f"{key}={value}" for key, value in extra.items())]

    return build


def read(path: Path) -> list:
    return json.loads(path.read_text())


def test_delta_makes_the_channel_weights_that_it_else_reads(command, tmp_path, data_dir, capsys, convolutions_in_tf32):
    """By whole forward passes of the head trained here, on the batches of the first epoch; then from the file made."""
    delta = [*command("delta"), f"aligned_layers={json.dumps(LAYERS)}"]
    assert main(delta) == 0, capsys.readouterr().err
    assert set(convolutions_in_tf32) == {False}
    run = tmp_path / "runs/delta"
    network = build_network("mobilenet_v2", 3)
    network.load_state_dict(load_checkpoint(run / "head/check_point/last.pth").model)
    network.eval()
    assert len((run / "head/log.txt").read_text().splitlines()) == 1 + 10
    loader = loaders.TrainLoader(scan_split(data_dir / "tiny/train"), Preprocessing(32, "default"), seed=1, **LOADING)
    batches = list(loader.epoch(0))
    weight = network.get_submodule(LAYERS[1]).weight
    increases = torch.zeros(8, dtype=torch.float64)
    with torch.no_grad():
        for channel in range(8):
            for batch in batches:
                before = F.cross_entropy(network(batch.images), batch.labels)
                kept = weight[channel].clone()
                weight[channel] = 0
                increases[channel] += (F.cross_entropy(network(batch.images), batch.labels) - before) / len(batches)
                weight[channel] = kept
    stored = [torch.tensor(layer, dtype=torch.float64).mean(dim=0) for layer in read(run / "channel_increases.json")]
    torch.testing.assert_close(stored[1][:8], increases, atol=1e-5, rtol=0)
    made = read(run / "channel_weights.json")
    assert [len(layer) for layer in made] == [160, 320]
    for layer, increase in zip(made, stored, strict=True):
        assert layer == pytest.approx(delta_channel_weights(increase).tolist(), abs=1e-7)

    assert main([*delta, "exp_id=again", f"channel_weight_path={run / 'channel_weights.json'}"]) == 0
    one, two = (load_checkpoint(tmp_path / "runs" / name / "check_point/last.pth") for name in ("delta", "again"))
    assert all(torch.equal(two.model[key], value) for key, value in one.model.items())
    assert not (tmp_path / "runs/again/head").exists()


def test_a_dry_run_includes_the_channel_weights(command, tmp_path, monkeypatch):
    words = [*command("delta"), f"aligned_layers={json.dumps(LAYERS)}"]
    monkeypatch.setattr(ablation, "VALUES_AT_ONCE", 2**16)
    monkeypatch.setattr(delta_weights, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # a second a call
    increases, chunks = ChannelAblation.increases, []

    def recorded(self, images, labels):
        for chunk in increases(self, images, labels):
            chunks.append(len(chunk))
            yield chunk

    monkeypatch.setattr(ChannelAblation, "increases", recorded)
    estimate = estimate_run(load_settings(words[0], words[1:]))
    assert len(chunks) == 4  # two of each layer
    one_batch = sum(
        2 + (channels - first - second) / second
        for channels, first, second in zip((160, 320), chunks[::2], chunks[1::2], strict=True)
    )
    assert estimate.seconds > 3 * one_batch > 3 * 4
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps([[1 / 160] * 160, [1 / 320] * 320]))
    without = estimate_run(load_settings(words[0], [*words[1:], f"channel_weight_path={weights}"]))
    assert len(chunks) == 4
    assert estimate.disk_bytes - without.disk_bytes > 3 * 9_000_000  # the checkpoints of the head


def test_channel_weights_cut_short_go_on_where_they_were(command, tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "VALUES_AT_ONCE", 2**16)
    words = [*command("act_fixed"), f"aligned_layers={json.dumps(LAYERS)}"]
    assert main(words) == 0
    increases, begun = ChannelAblation.increases, []

    def cut_in_the_second_chunk(self, images, labels, *, first=0):
        begun.append(first)
        for place, chunk in enumerate(increases(self, images, labels, first=first)):
            if place == 1 and len(begun) == 1:
                raise MemoryError
            yield chunk

    monkeypatch.setattr(ChannelAblation, "increases", cut_in_the_second_chunk)
    capsys.readouterr()
    assert main([*words, "exp_id=cut"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    left = read(tmp_path / "runs/cut/channel_increases.json")[0][0]
    assert 0 < len(left) < 160
    assert main([*words, "exp_id=cut"]) == 0, capsys.readouterr().err
    assert begun[:2] == [0, len(left)]
    assert read(tmp_path / "runs/cut/channel_increases.json")[0][0][: len(left)] == left
    whole, cut = (read(tmp_path / f"runs/{run}/channel_weights.json") for run in ("act_fixed", "cut"))
    for one, two in zip(whole, cut, strict=True):
        assert two == pytest.approx(one, abs=1e-6)
    # A run that died between the computation and its first checkpoint does not use the weights of other images.
    for name in ("check_point", "stage.json", "result.json"):
        shutil.move(tmp_path / "runs/cut" / name, tmp_path)
    shutil.copytree(data_dir / "tiny", tmp_path / "data/tiny")
    next((tmp_path / "data/tiny/train/bag").iterdir()).unlink()
    capsys.readouterr()
    assert main([*words, "exp_id=cut", f"target_data_dir={tmp_path / 'data'}"]) == 1
    assert "head: cannot resume, the training images changed since its start" in capsys.readouterr().err


def test_fixed_spatial_attention_is_the_mean_of_a_trained_asts(
    command, tmp_path, data_dir, words, capsys, convolutions_in_tf32
):
    """By the equation, over the training images without augmentation."""
    assert main(command("ast")) == 0
    assert main(command("ast_fixed", attention_path="ast")) == 0, capsys.readouterr().err
    assert set(convolutions_in_tf32) == {False}
    made = read(tmp_path / "runs/ast_fixed/mean_attention.json")
    attention = load_checkpoint(tmp_path / "runs/ast/check_point/best.pth").attention
    network = build_network("mobilenet_v2", 3).eval()
    weights = next(word.partition("=")[2] for word in words if word.startswith("source_weights="))
    load_backbone(network, *load_source_weights("mobilenet_v2", weights))
    maps: dict[str, torch.Tensor] = {}
    layers = BACKBONES["mobilenet_v2"].aligned_layers
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(lambda _m, _i, out, layer=layer: maps.update({layer: out}))
    loader = loaders.TestLoader(scan_split(data_dir / "tiny/train"), Preprocessing(32, "default"), **LOADING)
    with torch.no_grad():
        network(torch.cat([batch.views for batch in loader]))
    for place, layer in enumerate(layers):
        names = (f"alignments.spatial.attentions.{place}.{name}" for name in ("fc1.weight", "fc2.weight", "fc2.bias"))
        fc1, fc2, bias = (attention[name] for name in names)
        average = maps[layer].mean(dim=1).flatten(1)
        mean = torch.softmax(F.relu(average @ fc1.T) @ fc2.T + bias, dim=1).mean(dim=0)
        assert made[place] == pytest.approx(mean.tolist(), rel=1e-4)


def test_with_stage_start_last_the_mean_attention_is_that_of_the_last_epoch(command, tmp_path, capsys):
    fixed, run = command("ast_fixed", stage_start="last"), tmp_path / "runs/ast_fixed"
    assert main(fixed) == 0, capsys.readouterr().err
    made = read(run / "mean_attention.json")
    (run / "ast/check_point/best.pth").write_bytes(b"")
    for name in ("result.json", "stage.json", "mean_attention.json"):
        (run / name).unlink()
    assert main(fixed) == 0, capsys.readouterr().err
    assert read(run / "mean_attention.json") == made


def test_an_attention_that_does_not_fit_is_one_line(command, capsys):
    assert main(command("l2")) == 0
    assert main(command("ast", aligned_layers=json.dumps(LAYERS))) == 0
    for named, message in (
        ("l2", "has no spatial attention (method l2); name an AST checkpoint"),
        ("ast", "its attention is over features.16.conv.2, features.17.conv.2 of mobilenet_v2; the config aligns"),
        ("nothing", "no checkpoint at nothing"),
    ):
        capsys.readouterr()
        assert main(command("ast_fixed", attention_path=named, overwrite="true")) != 0
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error


DELTA = [32, 64, 96, 320]  # channels of MobileNetV2's aligned layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON with one list of numbers per layer"),
        ("{", "expected JSON with one list of numbers per layer"),
        ("3", "expected JSON with one list of numbers per layer"),
        ("null", "expected JSON with one list of numbers per layer"),
        ('["a"]', "expected JSON with one list of numbers per layer"),
        ("[[null]]", "expected JSON with one list of numbers per layer"),
        ("[[1, [2]]]", "expected JSON with one list of numbers per layer"),
        ("[[" + "9" * 400 + "]]", "expected JSON with one list of numbers per layer"),
        ("[" * 100_000, "expected JSON with one list of numbers per layer"),
        ("\ufeff[]", "has lists of shapes []"),
        ('{"a": [1]}', "expected JSON with one list of numbers per layer"),
        (json.dumps([[1.0] * c for c in DELTA[:3]]), "has lists of shapes [(32,), (64,), (96,)]"),
        (json.dumps([[1.0] * 7 for _ in range(1000)]), " and more; the aligned layers need"),
        (json.dumps([[[1.0]] * c for c in DELTA]), "has lists of shapes [(32, 1)"),
        (json.dumps([[float("nan")] * c for c in DELTA]), "a weight that is negative or not finite"),
        (json.dumps([[1e39] * c for c in DELTA]), "a weight that is negative or not finite"),
        (json.dumps([[-1.0] * c for c in DELTA]), "a weight that is negative or not finite"),
    ],
)
def test_channel_weights_are_checked(tmp_path, text, message):
    path = tmp_path / "weights.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as error:
        load_layer_weights(path, DELTA)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
