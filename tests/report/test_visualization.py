"""``mode=visualize``: the plots of a checkpoint, as PNG files and in TensorBoard."""

from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afa.command_line import main
from afa.inference.classifier import load_classifier
from afa.report.visualization import _networks
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


def test_every_plot_is_a_file_and_an_image_in_tensorboard(runs, tmp_path, capsys, convolutions_in_tf32):
    path = runs / "afa/stage_1/check_point/best.pth"
    assert visualize(runs, tmp_path, f"pre_trained_path={path}", 'compare=["l2"]', "images=2") == 0, capsys.readouterr()
    assert set(convolutions_in_tf32) == {False}
    found = {file.stem: Image.open(file).size for file in (tmp_path / "out").glob("*.png")}
    wanted = {"curves", "confusion", "per_class", "most_confused", "spatial_attention"}
    assert set(found) == wanted | {f"activations_{layer}" for layer in LAYERS}
    # Two rows of images of 320 pixels with gaps and captions, below the title: image, source, L2, AST; four layers.
    for name, columns in ((f"activations_{LAYERS[0]}", 4), ("spatial_attention", 5)):
        width, height = found[name]
        assert width == columns * 332 + 12
        assert 0 < height - (2 * 384 + 12) < 160
    events = EventAccumulator(str(tmp_path / "out/tensorboard")).Reload()
    assert set(events.Tags()["images"]) == set(found)


def test_two_stages_show_both_attentions_and_existing_files_are_kept(runs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    assert visualize(runs, tmp_path, "pre_trained_path=afa", "images=1") == 0
    found = {file.stem for file in (tmp_path / "out").glob("*_attention.png")}
    assert found == {"spatial_attention", "channel_attention"}
    assert (tmp_path / "out.old-1/mine.txt").exists()
    assert "out.old-1" in capsys.readouterr().out


def test_a_network_is_named_after_its_run(runs):
    stage_two, stage_one, l2 = (load_classifier(path, outpath=str(runs)) for path in ("afa", "afa/stage_1", "l2"))
    captions = list(_networks(stage_two, [stage_one, l2, l2], LAYERS))
    names = [("source", "before training"), ("afa/stage_1", "AST, epoch"), ("l2", "L2, epoch"), ("l2 (2)", "L2, epoch")]
    assert [(name, detail.rstrip(" 12")) for name, detail in captions] == [*names, ("afa/stage_2", "ACT, epoch")]


def test_a_checkpoint_without_its_run_shows_the_input(runs, tmp_path, data_dir, capsys):
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
def test_an_error_is_one_line(runs, tmp_path, capsys, words, message):
    assert visualize(runs, tmp_path, *words) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
