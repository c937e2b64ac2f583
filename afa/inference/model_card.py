"""The documentation of an exported network: metadata in its file, and a model card in Markdown."""

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from afa import __version__
from afa.data.images import GREY_RANGE
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_side
from afa.errors import AFAError, printable
from afa.files import read_json, sha256
from afa.inference.classifier import Classifier
from afa.inference.trained_attention import read_settings
from afa.method.catalogue import METHODS
from afa.networks.backbones import row_of
from afa.results.run_folder import find_run

METADATA = "model.json"
CARD = "README.md"

_PIXELS = {
    "default": """\
edge = round((side - size) / 2)
crops = [image.resize((side, side), Image.Resampling.BILINEAR).crop((edge, edge, edge + size, edge + size))]
""",
    "improved": """\
width, height = (int(side * length / min(image.size)) for length in image.size)
image = image.resize((width, height), Image.Resampling.BILINEAR)
corners = [(x, y) for y in (0, height - size) for x in (0, width - size)]
corners.append((round((width - size) / 2), round((height - size) / 2)))
crops = [image.crop((x, y, x + size, y + size)) for x, y in corners]
crops += [ImageOps.mirror(crop) for crop in crops]
""",
}
_LOGITS = {
    "model.onnx": (
        "import onnxruntime",
        """\
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {"pixels": pixels})
""",
    ),
    "model.pt2": (
        "import torch",
        """\
network = torch.export.load("model.pt2").module()
logits = network(torch.from_numpy(pixels))
""",
    ),
    "model.safetensors": (
        "import torch\nimport torchvision\nfrom safetensors.torch import load_file",
        """\
network = torchvision.models.get_model(model["backbone"], weights=None, OPTIONS).eval()
network.load_state_dict(load_file("model.safetensors"))
mean, std = (torch.tensor(model[name]).view(3, 1, 1) for name in ("mean", "std"))
logits = network((torch.from_numpy(pixels) / 255 - mean) / std)
""",
    ),
}
"""Exported file -> imports, and code that computes the logits of the ``pixels``."""

_SELECTED_ON = {
    "test": "This is the accuracy of the best epoch *on the test images*, as in the paper: the epoch was selected on "
    "the images that it is measured on, so the value is slightly optimistic.",
    "held_out": "This epoch was selected on held-out images, not on the test images.",
    "": "The checkpoint does not state on which images it was selected.",
}
_BACKGROUND = """\
image = image.convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, model["background"]), image)
"""
_RESIZE = {
    "default": "Resize to {side} x {side} pixels without keeping the aspect ratio (bilinear, antialiased); "
    "centre crop of {size} x {size}.",
    "improved": "Resize the short side to {side} pixels (bilinear, antialiased); average the logits of "
    "ten crops of {size} x {size}.",
}


def torchvision_options(classifier: Classifier) -> dict[str, Any]:
    """Arguments of torchvision's ``get_model`` for a network with the exported weights.

    An auxiliary head is only for training: the checkpoint keeps the source's, with another
    number of classes, and the exported network has none.
    """
    options: dict[str, Any] = {"num_classes": len(classifier.classes), **dict(row_of(classifier.backbone).options)}
    if hasattr(classifier.target.network, "aux_logits"):
        options["aux_logits"] = False
    return options


def metadata(classifier: Classifier) -> dict[str, Any]:
    """Classes and preprocessing, as plain values for JSON."""
    preprocessing = classifier.preprocessing
    return {
        "made_by": f"AFA {__version__}",
        "backbone": classifier.backbone,
        "classes": list(classifier.classes),
        "image_size": preprocessing.image_size,
        "resize_side": resize_side(preprocessing.image_size),
        "data_aug": preprocessing.augmentation,
        "background": preprocessing.background,
        "grey_range": preprocessing.grey_range,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "checkpoint_sha256": sha256(classifier.path),
    }


def as_strings(values: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of ONNX and safetensors files, which are strings: a list or number is written as JSON."""
    texts = {name: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for name, v in values.items()}
    # What is not UTF-8 in the name of a class becomes an escape of JSON.
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()}


def _use(classifier: Classifier, file: str) -> str:
    """Code from an image file to the name of its class, with the exported ``file``."""
    imports, logits = _LOGITS[file]
    augmentation = classifier.preprocessing.augmentation
    options = ", ".join(f"{name}={value}" for name, value in torchvision_options(classifier).items())
    pillow = "Image, ImageOps" if augmentation == "improved" else "Image"
    background = _BACKGROUND if classifier.preprocessing.background else ""
    return f"""\
import json
import numpy as np
{imports}
from PIL import {pillow}

model = json.load(open("model.json", encoding="utf-8"))
side, size = model["resize_side"], model["image_size"]
image = Image.open("photo.jpg")
{background}image = image.convert("RGB")
{_PIXELS[augmentation]}pixels = np.stack(crops).transpose(0, 3, 1, 2)  # 8-bit, (crops, 3, size, size)
{logits.replace("OPTIONS", options)}print(model["classes"][logits.mean(0).argmax()])
"""


def _data(classifier: Classifier) -> dict[str, str]:
    """Name, sizes and class balance of the data, from the checkpoint and the ``result.json`` of its run."""
    run, name, counts = find_run(classifier.path), "unknown", {}
    with contextlib.suppress(AFAError):  # a released checkpoint contains no settings
        name = f"`{read_settings(classifier.checkpoint, classifier.path).data.dataset}`"
    if run:
        with contextlib.suppress(AFAError):  # the checkpoint was moved, or its run is not finished
            counts = read_json(run.result, lambda values: dict(values["data"]))
    splits = {"train": "training", "test": "test"}
    return {"data set": name, **{f"{split} images": _balance(counts.get(key)) for key, split in splits.items()}}


def _balance(counts: Any) -> str:
    """Number of images of a split, and those of its smallest and largest class."""
    if not counts:
        return "unknown"
    sizes = sorted((size, name) for name, size in counts.get("per_class", {}).items())
    if not sizes:  # a run of version 0.1.0
        return f"{counts['images']}; the numbers of each class are unknown"
    (low, fewest), (high, most) = sizes[0], sizes[-1]
    return f"{counts['images']}; " + (
        f"{low} per class" if low == high else f"{low} ({_text(fewest)}) to {high} ({_text(most)}) per class"
    )


def _text(name: str) -> str:
    """A name as Markdown text: it may contain markup."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", printable(name))


def card_text(classifier: Classifier, files: Sequence[str]) -> str:
    """Markdown: the network, its data and accuracy, how it was selected, the input, and code that uses each file."""
    checkpoint, size = classifier.checkpoint, classifier.preprocessing.image_size
    method = METHODS[checkpoint.method].label if checkpoint.method in METHODS else "unknown"
    use = "\n\n".join(f"`{file}`:\n\n```python\n{_use(classifier, file)}```" for file in files)
    data = "\n".join(f"| {name} | {value} |" for name, value in _data(classifier).items())
    split = checkpoint.split.replace("_", "-")
    top1 = f"{checkpoint.top1:.2f} % on the {split} images" if split else "unknown"
    is_known = not math.isnan(checkpoint.balanced)
    balanced = f"{checkpoint.balanced:.2f} % on the {split} images (mean over the classes)" if is_known else "unknown"
    names = ", ".join(map(_text, classifier.classes[:20])) + (", ..." if len(classifier.classes) > 20 else "")
    resize = _RESIZE[classifier.preprocessing.augmentation].format(side=resize_side(size), size=size)
    seen = classifier.preprocessing
    colours = f"Show transparent pixels on {seen.background}. " if seen.background else ""
    if seen.grey_range != GREY_RANGE:
        colours += f"Of 16-bit grey, the levels {seen.grey_range} become 0 to 255. "
    mean, std = (", ".join(map(str, values)) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return f"""\
# {classifier.backbone}, {len(classifier.classes)} classes

| | |
|---|---|
| network | torchvision's `{classifier.backbone}` |
| trained with | {method} (attentive feature alignment, Xie et al., Neural Networks 138, 2021), AFA {__version__} |
| top-1 | {top1} |
| balanced accuracy | {balanced} |
| epoch | {checkpoint.epoch or "unknown"} |
{data}
| classes | {names} |
| checkpoint | SHA-256 `{sha256(classifier.path)}` |

{_SELECTED_ON[checkpoint.split]}

## Input

RGB. {colours}{resize}
Scale the pixels to 0 to 1, subtract the mean ({mean}) and divide by the standard deviation ({std});
`model.onnx` and `model.pt2` take 8-bit pixels and include this last step.

## Use

From an image file to the name of its class, in this folder:

{use}

For an image that differs from the training images, the prediction can be wrong although its probability is high.
An image of another class is also classified as one of these classes.
"""
