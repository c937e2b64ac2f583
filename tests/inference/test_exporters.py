"""Exported networks give PyTorch's logits for any number of images, with the code that the model card shows."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afa.command_line import main
from afa.data.images import read_image
from afa.data.transforms import IMAGENET_MEAN, normalise
from afa.inference.classifier import load_classifier
from afa.inference.exporters import FORMATS, Deployed
from tests.conftest import CLASSES


def export(path: Path, kind: str, folder: Path) -> int:
    return main(["mode=export", f"pre_trained_path={path}", f"format={kind}", f"output={folder}"])


def test_the_exported_graph_normalises_as_a_run_does():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(Deployed(torch.nn.Identity())(pixels), normalise(pixels))


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        (("onnx", "torch_export", "safetensors"), {"image_size": 32}),
        (("onnx", "safetensors"), {"image_size": 32, "augmentation": "improved"}),
        (("torch_export",), {"image_size": 32, "background": "#8040c0"}),
        (("safetensors",), {"backbone": "inception_v3", "image_size": 80}),  # its auxiliary head has 1,000 classes
    ],
)
def test_the_code_in_the_model_card_classifies_a_jpeg_as_the_classifier_does(
    kinds, options, make_checkpoint, data_dir, tmp_path, monkeypatch, capsys
):
    path, folder = make_checkpoint(**options), tmp_path / "exported"
    for kind in kinds:
        assert export(path, kind, folder) == 0, capsys.readouterr().err
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["README.md", "model.json", *(FORMATS[kind][0] for kind in kinds)]
    )
    photo = folder / "photo.jpg"
    image = read_image(next((data_dir / "tiny/test").glob("*/*.png"))).resize((97, 61))
    if "background" in options:
        image.putalpha(image.getchannel("G"))
    image.save(photo, "PNG" if image.mode == "RGBA" else "JPEG")
    classifier = load_classifier(path, gpu_id="cpu")
    ((_, expected, _),) = classifier.logits([photo])
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == len(kinds)
    monkeypatch.chdir(folder)
    for snippet in snippets:
        capsys.readouterr()
        names: dict[str, Any] = {}
        exec(snippet, names)
        logits = torch.as_tensor(names["logits"]).mean(0)
        assert torch.allclose(logits, expected[0], atol=1e-4, rtol=1e-4)
        assert capsys.readouterr().out.splitlines()[-1] == CLASSES[expected[0].argmax()]


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_an_exported_graph_takes_any_number_of_images(kind, make_checkpoint, data_dir, tmp_path):
    path = make_checkpoint(image_size=32)
    assert export(path, kind, tmp_path) == 0
    classifier = load_classifier(path, gpu_id="cpu")
    images = sorted((data_dir / "tiny/test").glob("*/*.png"))[:5]
    (expected,) = classifier.logits(images)
    pixels = np.stack([classifier.preprocessing.test_canvas(read_image(image))[0] for image in images])
    pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    for count in (1, 2, 5):
        if kind == "onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "model.onnx")
            (logits,) = session.run(["logits"], {"pixels": pixels[:count]})
        else:
            logits = torch.export.load(tmp_path / "model.pt2").module()(torch.from_numpy(pixels[:count]))
        assert torch.allclose(torch.as_tensor(logits), expected.logits[:count], atol=1e-4, rtol=1e-4)


def test_the_metadata_and_the_model_card_are_complete(make_checkpoint, tmp_path):
    from safetensors import safe_open

    assert export(make_checkpoint(), "safetensors", tmp_path / "out") == 0
    values = json.loads((tmp_path / "out/model.json").read_text())
    assert values["classes"] == list(CLASSES)
    assert (values["image_size"], values["resize_side"], values["mean"]) == (64, 73, list(IMAGENET_MEAN))
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        strings = file.metadata()
    texts = ("made_by", "backbone", "data_aug", "background", "grey_range", "checkpoint_sha256")
    assert {name: value if name in texts else json.loads(value) for name, value in strings.items()} == values
    card = (tmp_path / "out/README.md").read_text()
    assert "50.00 % on the test images" in card
    assert "selected on the images that it is measured on" in card
    assert "73 x 73 pixels" in card
    for name in ("data set", "training images", "test images"):
        assert f"| {name} | unknown |" in card


def test_the_model_card_describes_the_data(words, data_dir, tmp_path):
    shutil.copytree(data_dir / "tiny", tmp_path / "data/uneven")
    for path in list((tmp_path / "data/uneven/train/bag").iterdir())[2:]:
        path.unlink()
    uneven = [f"target_data_dir={tmp_path / 'data'}", "target_dataset=uneven", "max_iter=3", "repeat=2"]
    assert main(["tests/tiny.hocon", *words, *uneven, "reg_type=l2", "exp_id=run"]) == 0
    assert export(tmp_path / "runs/run", "safetensors", tmp_path / "out") == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "| data set | `uneven` |" in card
    assert "| training images | 10; 2 (bag) to 4 (trouser) per class |" in card
    assert "| test images | 9; 3 per class |" in card


def test_files_have_the_permissions_of_the_umask(make_checkpoint, tmp_path):
    path, before = make_checkpoint(), os.umask(0o027)
    try:
        for kind in ("torch_export", "safetensors"):
            assert export(path, kind, tmp_path / "out") == 0
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o640}


def test_an_older_export_is_kept(make_checkpoint, tmp_path):
    path, folder = make_checkpoint(), tmp_path / "out"

    def names() -> list[str]:
        return sorted(item.name for item in folder.iterdir())

    for kind in ("torch_export", "safetensors", "safetensors"):
        assert export(path, kind, folder) == 0
    of_one = ["README.md", "model.json", "model.old-1.safetensors", "model.pt2", "model.safetensors"]
    assert names() == of_one
    (folder / "README.md").write_text("edited")
    assert export(make_checkpoint(image_size=32), "safetensors", folder) == 0
    moved = ["README.old-1.md", "model.old-1.json", "model.old-1.pt2", "model.old-2.safetensors"]
    assert names() == sorted({*of_one, *moved} - {"model.pt2"})
    assert (folder / "README.old-1.md").read_text() == "edited"
    assert "`model.pt2`:" not in (folder / "README.md").read_text()


def test_a_failed_export_leaves_the_older_one(make_checkpoint, tmp_path, monkeypatch, capsys):
    from afa.inference import exporters

    path, folder = make_checkpoint(), tmp_path / "out"
    assert export(path, "safetensors", folder) == 0
    before = {item.name: item.read_bytes() for item in folder.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(exporters, "save", fail)
    assert export(path, "safetensors", folder) == 1
    assert "mobilenet_v2 cannot be exported to this format: no such operator" in capsys.readouterr().err
    assert {item.name: item.read_bytes() for item in folder.iterdir()} == before


def test_missing_packages_are_named(make_checkpoint, tmp_path, monkeypatch, capsys):
    from afa.inference import exporters

    monkeypatch.setattr(exporters, "find_spec", lambda name: None)
    assert export(make_checkpoint(), "onnx", tmp_path / "out") == 2
    assert capsys.readouterr().err == "format=onnx needs more packages: pip install onnx onnxscript\n"
    assert not (tmp_path / "out").exists()
