"""``mode=visualize``: the pictures of a checkpoint, and what they show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afa.command_line import main
from afa.inference.attention_maps import LayerAttention
from afa.report.activations import draw_activations, telling_channels
from afa.report.attention import attention_rows
from afa.report.heat import bars, grid, heat, heat_map
from tests.conftest import ROOT

LAYERS = [f"features.{block}.conv.2" for block in (5, 9, 13, 17)]


@pytest.fixture(scope="module")
def runs(words_for, tmp_path_factory) -> Path:
    """A run of AFA and one of L2."""
    words = words_for(tmp_path_factory.mktemp("visualized"))
    assert main([str(ROOT / "hocon_config/AFA/mobilenet_v2_stanford_dogs_120.hocon"), *words, "exp_id=afa"]) == 0
    assert main([str(ROOT / "tests/tiny.hocon"), *words, "reg_type=l2", "exp_id=l2", "max_iter=3"]) == 0
    return Path(words[2].removeprefix("outpath="))


def visualize(runs: Path, tmp_path: Path, *words: str) -> int:
    return main(["mode=visualize", f"outpath={runs}", f"output={tmp_path / 'out'}", "gpu_id=cpu", *words])


def test_every_picture_is_there_as_a_file_and_in_tensorboard(runs, tmp_path, capsys):
    path = runs / "afa/stage_1/check_point/best.pth"
    assert visualize(runs, tmp_path, f"pre_trained_path={path}", 'compare=["l2"]', "images=2") == 0, capsys.readouterr()
    found = {file.stem: Image.open(file).size for file in (tmp_path / "out").glob("*.png")}
    wanted = {"curves", "confusion", "per_class", "most_confused", "spatial_attention"}
    assert set(found) == wanted | {f"activations_{layer}" for layer in LAYERS}
    # Two rows of pictures of 160 pixels with gaps and captions: image, source, L2, AST; image and four layers.
    assert found[f"activations_{LAYERS[0]}"] == (4 * 166 + 6, 2 * 186 + 6)
    assert found["spatial_attention"] == (5 * 166 + 6, 2 * 186 + 6)
    events = EventAccumulator(str(tmp_path / "out/tensorboard")).Reload()
    assert set(events.Tags()["images"]) == set(found)


def test_a_second_stage_shows_its_channels_and_what_was_there_is_kept(runs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    assert visualize(runs, tmp_path, "pre_trained_path=afa", "images=1") == 0
    assert (tmp_path / "out/channel_attention.png").exists()
    assert (tmp_path / "out.old-1/mine.txt").exists()
    assert "out.old-1" in capsys.readouterr().out


def test_a_checkpoint_alone_shows_given_images(runs, tmp_path, data_dir, capsys):
    path = tmp_path / "moved.pth"
    path.write_bytes((runs / "l2/check_point/best.pth").read_bytes())
    pattern = data_dir / "tiny/test/bag/*.png"
    assert visualize(runs, tmp_path, f"pre_trained_path={path}", f"input={pattern}") == 0
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == {f"activations_{layer}" for layer in LAYERS}
    assert "no confusion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pre_trained_path=afa", 'compare=["l3"]'], "compare: no checkpoint at l3"),
        (["pre_trained_path=afa", "input=nowhere.jpg"], "input: no such image"),
        (["pre_trained_path=afa", "input=README.md"], "README.md: not an image"),
        (["pre_trained_path=afa", "images=0"], "images: 0 is out of range"),
    ],
)
def test_what_cannot_be_shown_is_one_line(runs, tmp_path, capsys, words, message):
    assert visualize(runs, tmp_path, *words) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_bright_is_much():
    values = np.array([[0.0, 1.0], [0.5, 0.25]])
    lightness = heat(values).sum(axis=-1)
    assert (np.argsort(lightness.flatten()) == np.argsort(values.flatten())).all()
    row, column = np.divmod(np.asarray(heat_map(values, 64)).sum(axis=-1, dtype=int).argmax(), 64)
    assert row < 24
    assert column > 40
    assert np.asarray(heat_map(values, 8, bounds=(0, 100))).sum(axis=-1).max() < 0.5 * heat(np.ones((1, 1))).sum()


def test_bars_are_sorted_and_cross_the_line_of_uniform_attention():
    pixels = np.asarray(bars(np.array([0.1, 0.6, 0.3]), 30, 100))
    blue = (pixels == (37, 99, 235)).all(axis=-1).sum(axis=0)
    assert (np.diff(blue) <= 0).all()
    assert blue[0] > 3 * blue[-1]


def test_attention_is_said_in_multiples_of_uniform_attention():
    spatial = LayerAttention("layer1", "spatial", torch.tensor([[[0.7, 0.1], [0.1, 0.1]]]))
    channel = LayerAttention("layer1", "channel", torch.full((1, 8), 1 / 8))
    rows = attention_rows([Image.new("RGB", (8, 8))], [spatial, channel])
    assert [said for _, said in rows["spatial"][0]] == ["image", "layer1: 0.40 to 2.80"]
    assert [said for _, said in rows["channel"][0]] == ["image", "layer1: entropy 1.000"]


def test_the_same_channel_of_all_networks_is_shown_on_one_scale():
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 1, 0, 0] = 1.0  # the one channel that differs from place to place
    assert telling_channels(maps) == [1]
    networks = {"source": lambda images: [maps], "same": lambda images: [maps], "twice": lambda images: [2 * maps]}
    picture = Image.new("RGB", (32, 32))
    pixels = np.asarray(draw_activations(networks, ["layer"], [picture], torch.zeros(1, 3, 32, 32))["layer"])
    source, same, twice = (pixels[26:186, 6 + 166 * column : 166 + 166 * column] for column in (1, 2, 3))
    assert (source == same).all()
    assert source.sum(dtype=int) < twice.sum(dtype=int)


def test_captions_that_have_no_room_or_steer_a_terminal_are_cut():
    assert grid([[(Image.new("RGB", (40, 10)), "a\nlong name" * 9)]]).size == (52, 42)
