"""Predictions need only a checkpoint, equal those of an evaluation bit for bit, and skip files that are not images."""

import csv
import json
import os
import queue
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from afa.command_line import main
from afa.commands.evaluation import prepare_evaluation
from afa.data.images import read_image
from afa.errors import AFAError, DataError
from afa.inference import classifier as classifier_module
from afa.inference.classifier import load_classifier
from afa.inference.model_card import card_text, metadata
from afa.inference.predictions import find_images
from afa.machine.context import Context
from afa.machine.signals import Signals
from afa.networks.build import build_network
from afa.networks.features import FeatureNetwork
from afa.results.journal import Journal
from afa.training.engine import predict
from tests.conftest import CLASSES


@pytest.mark.parametrize(
    ("backbone", "augmentation"), [("resnet50", "default"), ("mobilenet_v2", "default"), ("mobilenet_v2", "improved")]
)
def test_a_prediction_equals_that_of_the_evaluation_bit_for_bit(
    make_checkpoint, settings_for, tmp_path, monkeypatch, backbone, augmentation
):
    """For any batch size and order, although libraries choose kernels by the number of images; folded once."""
    path = make_checkpoint(backbone, augmentation)
    settings = settings_for(
        mode="eval", base_model_name=backbone, pre_trained_path=path, image_size=64, data_aug=augmentation
    )
    context = Context(torch.device("cpu"), Journal(tmp_path / "log"), Signals())
    evaluation = prepare_evaluation(settings, path, context)
    expected, _ = predict(evaluation.target.evaluator(), evaluation.loader)
    classifier = load_classifier(path, gpu_id="cpu")
    folded, evaluator = [], FeatureNetwork.evaluator
    monkeypatch.setattr(FeatureNetwork, "evaluator", lambda target: folded.append(target) or evaluator(target))
    paths = evaluation.loader.folder.paths
    for batch_size in (1, 2, 64):
        batches = classifier.logits(paths, batch_size)
        assert torch.equal(torch.cat([batch.logits for batch in batches]), expected)
    (backwards,) = classifier.logits(paths[::-1])
    assert torch.equal(backwards.logits.flip(0), expected)
    assert folded == [classifier.target]


def test_the_next_images_are_decoded_during_the_forward_pass(make_checkpoint, data_dir, monkeypatch):
    classifier = load_classifier(make_checkpoint("mobilenet_v2", "default"), gpu_id="cpu")
    decoded, load = queue.SimpleQueue(), classifier_module.load_canvases

    def recording_load(files, **options):
        decoded.put(list(files))
        return load(files, **options)

    monkeypatch.setattr(classifier_module, "load_canvases", recording_load)
    paths = sorted((data_dir / "tiny/test").glob("*/*.png"))[:6]
    batches = classifier.logits(paths, 2)
    next(batches)
    assert [decoded.get(timeout=60) for _ in range(2)] == [paths[:2], paths[2:4]]
    assert [batch.paths for batch in batches] == [paths[2:4], paths[4:]]


@pytest.fixture
def pictures(data_dir, tmp_path) -> Path:
    """Five pictures in two folders, a text file with the suffix .jpg, a hidden file."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for index, path in enumerate(sorted((data_dir / "tiny/test").glob("*/*.png"))[:5]):
        read_image(path).save(folder / ("more" if index % 2 else "") / f"{index}.jpg")
    (folder / "note.jpg").write_text("not a picture")
    (folder / ".DS_Store").write_text("hidden")
    return folder


def predict_command(path: Path, wanted: Path | str, tmp_path: Path) -> list[str]:
    return ["mode=predict", f"pre_trained_path={path}", f"input={wanted}", f"output={tmp_path / 'out'}", "gpu_id=cpu"]


def test_images_in_a_folder_are_predicted_and_other_files_are_named(make_checkpoint, pictures, tmp_path, capsys):
    assert main(predict_command(make_checkpoint(), pictures, tmp_path)) == 0
    out = capsys.readouterr().out
    assert f"skipped {pictures / 'note.jpg'}: not an image" in out
    assert "5 images, 1 skipped" in out
    assert f"{pictures}: 1 files ignored: 1 .DS_Store; images are JPEG, " in out
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    document = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [row["path"] for row in rows] == [image["path"] for image in document["images"]]
    assert [Path(row["path"]).name for row in rows] == ["0.jpg", "2.jpg", "4.jpg", "1.jpg", "3.jpg"]
    for row, image in zip(rows, document["images"], strict=True):
        assert sorted(guess["class"] for guess in image["top"]) == list(CLASSES)
        assert sum(guess["probability"] for guess in image["top"]) == pytest.approx(1)
        assert f"{image['top'][0]['probability']:.6f}" == row["probability1"]


def test_a_pattern_and_a_single_image(make_checkpoint, pictures, tmp_path, capsys):
    path = make_checkpoint()
    assert main(predict_command(path, f"{pictures}/**/[03].jpg", tmp_path)) == 0
    assert "2 images, 0 skipped" in capsys.readouterr().out
    before = (tmp_path / "out/predictions.csv").read_bytes()
    assert main(predict_command(path, pictures / "0.jpg", tmp_path)) == 0
    assert "1 images, 0 skipped" in capsys.readouterr().out
    assert (tmp_path / "out/predictions.old-1.csv").read_bytes() == before


def test_links_are_followed_once_and_files_of_systems_are_ignored(pictures):
    """As in training. A link to a folder above would not end, or take hours with two of them."""
    for name, target in {"one": pictures, "two": pictures.parent, "three": pictures.parent}.items():
        (pictures / "more" / name).symlink_to(target)
    (pictures.parent / "elsewhere").mkdir()
    shutil.copy(pictures / "0.jpg", pictures.parent / "elsewhere/5")
    (pictures / "more/linked").symlink_to(pictures.parent / "elsewhere")
    (pictures / "@eaDir").mkdir()
    shutil.copy(pictures / "0.jpg", pictures / "@eaDir/0.jpg")
    names = ["0.jpg", "2.jpg", "4.jpg", "1.jpg", "3.jpg", "5", "note.jpg"]
    up = [f"{pictures}/more/{name}: a link to a folder above it; remove it" for name in ("three", "two")]
    for wanted in (pictures, f"{pictures}/**"):
        paths, lines = find_images(str(wanted))
        assert [path.name for path in paths] == names
        assert lines[:2] == up
        assert "1 in @eaDir (of Synology)" in lines[2]
    assert [path.name for path in find_images(f"{pictures}/**/more/*.jpg")[0]] == ["1.jpg", "3.jpg"]
    assert find_images(f"{pictures}/*/0.jpg")[0] == []
    assert find_images(f"{pictures}/@eaDir/*.jpg")[0] == [pictures / "@eaDir/0.jpg"]
    os.mkfifo(pictures / "pipe.jpg")
    paths, lines = find_images(str(pictures / "pipe.jpg"))  # reading it would not end
    assert (paths, "special (a pipe or a device)" in lines[0]) == ([], True)


def test_the_background_of_the_training_is_used(make_checkpoint, settings_for, tmp_path):
    """Also in the model card; and an evaluation with another background is refused."""
    path = make_checkpoint(background="white", grey_range="0..4095")
    Image.new("RGBA", (64, 64)).save(tmp_path / "transparent.png")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    Image.new("I;16", (64, 64), 4095).save(tmp_path / "grey.png")
    classifier = load_classifier(path, gpu_id="cpu")
    (batch,) = classifier.logits([tmp_path / "transparent.png", tmp_path / "white.png", tmp_path / "grey.png"])
    assert batch.logits[0].equal(batch.logits[1])
    assert batch.logits[2].equal(batch.logits[1])
    assert "Show transparent pixels on white. Of 16-bit grey, the levels 0..4095 become" in card_text(
        classifier, ["model.onnx"]
    )
    assert metadata(classifier)["background"] == "white"
    settings = settings_for(mode="eval", pre_trained_path=path, image_size=64, background="black")
    context = Context(torch.device("cpu"), Journal(tmp_path / "log"), Signals())
    with pytest.raises(
        AFAError, match=r"another preprocessing \(background = white, now black; grey_range = 0..4095, now"
    ):
        prepare_evaluation(settings, path, context)


def test_unprintable_file_names_are_escaped(make_checkpoint, pictures, tmp_path, capsys):
    strange = b"\x1b[2J\xff.jpg"
    (pictures / "0.jpg").rename(pictures / os.fsdecode(strange))
    assert main(predict_command(make_checkpoint(), pictures, tmp_path)) == 0
    assert "\x1b" not in capsys.readouterr().out
    paths = [image["path"] for image in json.loads((tmp_path / "out/predictions.json").read_text())["images"]]
    assert str(pictures / r"\x1b[2J\udcff.jpg") in paths


def test_no_image_at_all_is_an_error_and_writes_nothing(make_checkpoint, pictures, tmp_path, capsys):
    assert main(predict_command(make_checkpoint(), pictures / "note.jpg", tmp_path)) == 1
    assert "no image could be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_from_python_a_bad_image_raises(make_checkpoint, pictures):
    classifier = load_classifier(make_checkpoint(), gpu_id="cpu")
    (prediction,) = classifier.predict(pictures / "0.jpg")
    assert prediction.classes[0] in CLASSES
    with pytest.raises(DataError, match=r"note\.jpg: not an image"):
        classifier.predict([pictures / "0.jpg", pictures / "note.jpg"])


@pytest.fixture
def released(tmp_path) -> Path:
    """A checkpoint that contains only weights."""
    torch.save({"model": build_network("mobilenet_v2", 3).state_dict()}, tmp_path / "released.pth")
    return tmp_path / "released.pth"


def test_a_released_checkpoint_needs_the_name_of_its_network(released, pictures, tmp_path, capsys):
    command = predict_command(released, pictures / "0.jpg", tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "base_model_name=<name>" in error
    assert error.count("\n") == 1
    assert main([*command, "base_model_name=mobilenet_v2"]) == 0
    numbered = json.loads((tmp_path / "out/predictions.json").read_text())["images"][0]["top"]
    assert sorted(guess["class"] for guess in numbered) == ["0", "1", "2"]
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    assert main([*command, "base_model_name=mobilenet_v2", f"classes_file={tmp_path / 'classes.txt'}"]) == 0
    named = json.loads((tmp_path / "out/predictions.json").read_text())["images"][0]["top"]
    assert [guess["class"] for guess in named] == [CLASSES[int(guess["class"])] for guess in numbered]
    (tmp_path / "classes.txt").write_text("one\ntwo")
    assert main([*command, "base_model_name=mobilenet_v2", f"classes_file={tmp_path / 'classes.txt'}"]) == 1
    assert "its head has 3 classes, but there are 2 class names" in capsys.readouterr().err


def test_a_run_is_found_by_its_name(make_checkpoint, pictures, tmp_path):
    run = tmp_path / "runs" / "mine" / "check_point"
    run.mkdir(parents=True)
    shutil.move(make_checkpoint(), run / "best.pth")
    assert load_classifier("mine", outpath=str(tmp_path / "runs"), gpu_id="cpu").classes == CLASSES
