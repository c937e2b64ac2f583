"""Exported networks give PyTorch's logits for any number of images, with the code that the model card shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from afa.command_line import main
from afa.data.images import read_image
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise
from afa.inference.classifier import load_classifier
from afa.inference.exporters import Deployed
from tests.conftest import CLASSES


def export(path: Path, kind: str, folder: Path) -> int:
    return main(["mode=export", f"pre_trained_path={path}", f"format={kind}", f"output={folder}"])


def code_of(folder: Path) -> str:
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


def test_the_exported_graph_normalises_as_a_run_does():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(Deployed(torch.nn.Identity())(pixels), normalise(pixels))


@pytest.mark.parametrize(
    ("kind", "backbone", "image_size"),
    [
        ("onnx", "mobilenet_v2", 32),
        ("torch_export", "mobilenet_v2", 32),
        ("safetensors", "mobilenet_v2", 32),
        ("safetensors", "inception_v3", 80),  # its auxiliary head keeps the 1,000 classes of the source
    ],
)
def test_the_code_in_the_model_card_gives_the_logits_of_the_classifier(
    kind, backbone, image_size, make_checkpoint, data_dir, tmp_path, monkeypatch, capsys
):
    path, folder = make_checkpoint(backbone, image_size=image_size), tmp_path / "exported"
    assert export(path, kind, folder) == 0, capsys.readouterr().err
    classifier = load_classifier(path, gpu_id="cpu")
    images = sorted((data_dir / "tiny/test").glob("*/*.png"))[:5]
    (expected,) = classifier.logits(images)
    canvases = [classifier.preprocessing.test_canvas(read_image(image))[0] for image in images]
    pixels = np.stack(canvases).transpose(0, 3, 1, 2)
    code = code_of(folder)
    monkeypatch.chdir(folder)
    for count in (1, 2, 5):
        names = {"pixels": pixels[:count] if kind == "onnx" else torch.from_numpy(pixels[:count])}
        if kind == "safetensors":
            names |= {
                "mean": torch.tensor(IMAGENET_MEAN).view(3, 1, 1),
                "std": torch.tensor(IMAGENET_STD).view(3, 1, 1),
            }
        exec(code, names)
        logits = torch.as_tensor(names["logits"])
        assert torch.allclose(logits, expected.logits[:count], atol=1e-4, rtol=1e-4)
    if kind == "onnx":
        assert capsys.readouterr().out.splitlines()[-1] == CLASSES[expected.logits[0].argmax()]


def test_the_metadata_and_the_model_card_are_complete(make_checkpoint, tmp_path):
    from safetensors import safe_open

    assert export(make_checkpoint(), "safetensors", tmp_path / "out") == 0
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == json.loads((tmp_path / "out/model.json").read_text())
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert (metadata["image_size"], metadata["resize_side"], json.loads(metadata["mean"])) == (
        "64",
        "73",
        list(IMAGENET_MEAN),
    )
    card = (tmp_path / "out/README.md").read_text()
    assert "50.00 % on the test images" in card
    assert "selected on the images that it is measured on" in card
    assert "73 x 73 pixels" in card


def test_an_older_export_is_kept(make_checkpoint, tmp_path):
    path, folder = make_checkpoint(), tmp_path / "out"
    assert export(path, "safetensors", folder) == 0
    assert export(path, "safetensors", folder) == 0
    assert sorted(item.name for item in folder.iterdir()) == [
        "README.md",
        "README.old-1.md",
        "model.json",
        "model.old-1.json",
        "model.old-1.safetensors",
        "model.safetensors",
    ]


def test_a_failed_export_leaves_the_older_one(make_checkpoint, tmp_path, monkeypatch, capsys):
    from afa.inference import exporters

    path, folder = make_checkpoint(), tmp_path / "out"
    assert export(path, "safetensors", folder) == 0
    before = {item.name: item.read_bytes() for item in folder.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(exporters, "save_file", fail)
    assert export(path, "safetensors", folder) == 1
    assert "mobilenet_v2 cannot be exported to this format: no such operator" in capsys.readouterr().err
    assert {item.name: item.read_bytes() for item in folder.iterdir()} == before


def test_missing_packages_are_named(make_checkpoint, tmp_path, monkeypatch, capsys):
    from afa.inference import exporters

    monkeypatch.setattr(exporters, "find_spec", lambda name: None)
    assert export(make_checkpoint(), "onnx", tmp_path / "out") == 2
    assert capsys.readouterr().err == "format=onnx needs more packages: pip install onnx onnxscript\n"
    assert not (tmp_path / "out").exists()
