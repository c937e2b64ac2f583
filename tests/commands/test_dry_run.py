"""``dry_run=true``: it passes where the run starts, fails where the run would, and leaves nothing behind."""

import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image

import afa
from afa.command_line import main
from afa.commands import dry_run as module
from afa.commands.dry_run import estimate_run
from afa.networks.build import build_network

AFA = "hocon_config/AFA/mobilenet_v2_stanford_dogs_120.hocon"


def files(folder: Path) -> dict[str, int]:
    """Path and time of each file but the lock, which is taken and given back."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def test_both_stages_are_tried_and_nothing_is_left(words, tmp_path, capsys):
    assert main([AFA, *words, "alpha=1e-6", "exp_id=afa", "repeat=2", "dry_run=true"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    for text in (
        'target_dataset = "tiny"',
        "12 training images, 4 per class",
        "9 test images, 3 per class",
        "features.13.conv.2  96        2 x 2",
        "ACT (repeat 1/2): mobilenet_v2 from the weights after AST",
        "2 epochs of 3 steps",
        "will start",
    ):
        assert text in out
    assert "momentum" not in out  # nor any other setting with its default
    assert out.index("12 training images") < 1500


def test_the_estimate_is_that_of_the_run(words, settings_for, tmp_path):
    """Bytes to the checkpoint; seconds only roughly, as a run of six steps on a busy machine has no fixed time."""
    foreseen = estimate_run(settings_for(max_iter=6, alpha=1e-6))
    assert main(["tests/tiny.hocon", *words, "alpha=1e-6", "exp_id=run"]) == 0
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "runs/run/check_point").glob("*.pth")}
    assert foreseen.disk_bytes - sizes["last.pth"] == pytest.approx(sum(sizes.values()), rel=0.01)
    assert foreseen.stages[0].epochs == 2
    assert 0 < foreseen.seconds < 600
    assert foreseen.memory_bytes > sum(sizes.values())


@pytest.mark.parametrize(
    ("wrong", "status", "message"),
    [
        (["batch_size=11"], 2, "batch_size: with 11 a batch of the 12 images has a single image"),
        (['aligned_layers=["features.99"]'], 2, "has no layer features.99"),
        (["lr=1e30"], 1, "not finite: "),
        (["source_weights=README.md"], 1, "README.md: not a readable file of weights"),
    ],
)
def test_what_would_stop_the_run_stops_the_dry_run(words, tmp_path, capsys, wrong, status, message):
    assert main(["tests/tiny.hocon", *words, "alpha=1e-6", *wrong, "dry_run=true"]) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_bad_image_and_classes_of_unlike_size_are_said(words, data_dir, tmp_path, capsys):
    shutil.copytree(data_dir / "tiny", tmp_path / "data" / "tiny")
    images = sorted((tmp_path / "data/tiny/train/bag").iterdir())
    for path in images[2:]:
        path.unlink()
    command = ["tests/tiny.hocon", *words, "alpha=1e-6", f"target_data_dir={tmp_path / 'data'}", "dry_run=true"]
    assert main(command) == 0
    assert "2 to 4 per class: unbalanced; fewest bag 2" in capsys.readouterr().out
    images[0].write_bytes(b"")
    assert main(command) == 1
    assert "empty file" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_said_before(words, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10**7, 0, 10**7))
    assert main(["tests/tiny.hocon", *words, "alpha=1e-6", "dry_run=true"]) == 1
    assert "10 MB are free, the run needs" in capsys.readouterr().err


def test_a_run_that_is_there_is_looked_at_and_not_touched(words, data_dir, tmp_path, capsys):
    shutil.copytree(data_dir / "tiny", tmp_path / "data" / "tiny")
    command = ["tests/tiny.hocon", *words, "exp_id=run", f"target_data_dir={tmp_path / 'data'}"]
    assert main([*command, "alpha=1e-6"]) == 0
    before = files(tmp_path / "runs")
    assert main([*command, "alpha=1e-6", "dry_run=true"]) == 0
    assert "already finished" in capsys.readouterr().out
    assert main([*command, "alpha=2e-6", "dry_run=true"]) == 1
    assert "made with other settings" in capsys.readouterr().err
    assert main([*command, "alpha=2e-6", "dry_run=true", "overwrite=true"]) == 0
    assert files(tmp_path / "runs") == before
    for name in ("result.json", "stage.json"):
        (tmp_path / "runs/run" / name).unlink()
    next((tmp_path / "data/tiny/train/bag").iterdir()).unlink()
    assert main([*command, "alpha=1e-6", "dry_run=true"]) == 1
    assert "the training images changed" in capsys.readouterr().err


def test_a_run_that_searches_for_its_alpha_is_tried_with_the_first_value(words, tmp_path, capsys):
    assert main(["tests/tiny.hocon", *words, "search.alpha=[0.01,0.02]", "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert "warning: AST: the loss grew" in out  # the search drops a value that diverges
    assert "the estimate does not include the search" in out
    *terms, total, _ = map(float, out.split("1 of 6 ")[1].splitlines()[0].split())
    assert total == pytest.approx(sum(terms), rel=0.01)
    assert not list(tmp_path.iterdir())


def test_from_python_a_dry_run_is_an_estimate_run(settings_for, tmp_path):
    found = afa.run(settings_for(max_iter=300, alpha=1e-6, repeat=2, dry_run="true"))
    assert found["seconds"] > 0
    assert [stage["epochs"] for stage in found["stages"]] == [100]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("classes", "status"), [(3, 0), (120, 1)])
def test_an_evaluation_is_tried_too(words, tmp_path, capsys, classes, status):
    torch.save({"model": build_network("mobilenet_v2", classes).state_dict()}, tmp_path / "released.pth")
    config = "hocon_config/val/mobilenet_v2_Stanford_dogs_120.hocon"
    command = [config, *words, f"pre_trained_path={tmp_path / 'released.pth'}", "dry_run=true"]
    assert main(command) == status
    captured = capsys.readouterr()
    assert "a bare state dict" in captured.out if status == 0 else "its head has 120 classes" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["released.pth"]


def test_what_is_odd_about_the_images_is_a_line_each(words, data_dir, tmp_path, capsys):
    """Ignored files, pixels that lose what the eye sees, copies of images; a fault of a folder ends the run."""
    root = shutil.copytree(data_dir / "tiny", tmp_path / "data/odd")
    one = next((root / "train/bag").iterdir())
    shutil.copy(one, root / "test/sandal/copy")
    (root / "train/bag/notes.txt").write_text("x")
    for path in (root / "test/trouser").iterdir():
        Image.new("RGBA", (8, 8)).save(path)
    command = ["tests/tiny.hocon", *words, f"target_data_dir={tmp_path / 'data'}", "target_dataset=odd", "alpha=1e-6"]
    assert main([*command, "dry_run=true"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out.count(f"{root}/train: 1 files ignored: 1 .txt") == 1
    assert out.count(f"{root}/test: 3 of 10 images have transparent pixels") == 1
    assert f"{root}/test: 1 of the 10 test images are also training images" in out
    assert f"for example {root}/test/sandal/copy and {one}" in out
    (root / "train/bag/up").symlink_to("..")
    assert main([*command, "dry_run=true"]) == 1
    assert capsys.readouterr().err == f"{root}/train/bag/up: a link to a folder above it; remove it\n"


def test_the_published_alphas_do_not_pass_with_the_weights_of_the_demo(words, tmp_path, capsys):
    """The loss grows by a factor of 10 or more, and stage one is named, although stage two would diverge, too."""
    pictures = ["target_data_dir=demo", "target_dataset=fashion_mnist_20shot", "image_size=96", "batch_size=40"]
    recipe = [AFA, *words, *pictures, "dry_run=true"]
    assert main(recipe) == 1
    captured = capsys.readouterr()
    assert re.search(r"\n1 of \d +[12]\.\d+ +2\d\d\.\d ", captured.out)
    assert re.fullmatch(
        r"AST: the loss grew from 2\d\d to .* in \d steps: it diverges; try alpha = 0.00[45], or .*\n", captured.err
    )
    assert "relative with alpha = 10" in captured.err
    for better in (["alpha=0.004"], ["alpha=10", "alignment_scale=relative"]):
        assert main([*recipe, *better]) == 0
        assert "warning" not in capsys.readouterr().out
