"""What a user of an exported network needs to know: metadata inside the file, and a model card in Markdown."""

import json
from typing import Any

from afa import __version__
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_side
from afa.files import sha256
from afa.inference.classifier import Classifier
from afa.method.catalogue import METHODS
from afa.networks.backbones import row_of

METADATA = "model.json"
CARD = "README.md"

_USE = {
    "model.onnx": """\
import json
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {{"pixels": pixels}})  # pixels: uint8 (any number, 3, {size}, {size}), RGB
classes = json.load(open("model.json"))["classes"]
print(json.loads(classes)[logits[0].argmax()])
""",
    "model.pt2": """\
import torch

network = torch.export.load("model.pt2").module()
logits = network(pixels)  # pixels: uint8 tensor (any number, 3, {size}, {size}), RGB
""",
    "model.safetensors": """\
import torchvision
from safetensors.torch import load_file

network = torchvision.models.get_model("{backbone}", weights=None, {options})
network.load_state_dict(load_file("model.safetensors"))
logits = network.eval()((pixels / 255 - mean) / std)  # pixels: float (any number, 3, {size}, {size}), RGB
""",
}
_SELECTED_ON = {
    "test": "This is the accuracy of the best epoch *on the test images*, as in the paper: the epoch was selected on "
    "the images that it is measured on, so the value is slightly optimistic.",
    "held_out": "This epoch was selected on held-out images, not on the test images.",
    "": "The checkpoint does not record how it was selected.",
}
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


def metadata(classifier: Classifier) -> dict[str, str]:
    """Classes and preprocessing as strings, the type of metadata in safetensors and ONNX files."""
    preprocessing = classifier.preprocessing
    return {
        "made_by": f"AFA {__version__}",
        "backbone": classifier.backbone,
        "classes": json.dumps(list(classifier.classes), ensure_ascii=False),
        "image_size": str(preprocessing.image_size),
        "resize_side": str(resize_side(preprocessing.image_size)),
        "data_aug": preprocessing.augmentation,
        "mean": json.dumps(IMAGENET_MEAN),
        "std": json.dumps(IMAGENET_STD),
        "checkpoint_sha256": sha256(classifier.path),
    }


def card_text(classifier: Classifier, file: str) -> str:
    """Markdown: the network, its accuracy and how it was selected, the input, and code that uses ``file``."""
    checkpoint, size = classifier.checkpoint, classifier.preprocessing.image_size
    method = METHODS[checkpoint.method].label if checkpoint.method in METHODS else "unknown"
    options = ", ".join(f"{name}={value}" for name, value in torchvision_options(classifier).items())
    use = _USE[file].format(size=size, backbone=classifier.backbone, options=options)
    split = checkpoint.split.replace("_", "-")
    top1 = f"{checkpoint.top1:.2f} % on the {split} images" if split else "unknown"
    names = ", ".join(classifier.classes[:20]) + (", ..." if len(classifier.classes) > 20 else "")
    resize = _RESIZE[classifier.preprocessing.augmentation].format(side=resize_side(size), size=size)
    mean, std = (", ".join(map(str, values)) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return f"""\
# {classifier.backbone}, {len(classifier.classes)} classes

| | |
|---|---|
| network | torchvision's `{classifier.backbone}` |
| trained with | {method} (attentive feature alignment, Xie et al., Neural Networks 138, 2021), AFA {__version__} |
| top-1 | {top1} |
| epoch | {checkpoint.epoch or "unknown"} |
| classes | {names} |
| checkpoint | SHA-256 `{sha256(classifier.path)}` |

{_SELECTED_ON[checkpoint.split]}

## Input

RGB. {resize}
Scale the pixels to 0 to 1, subtract the mean ({mean}) and divide by the standard deviation ({std});
`model.onnx` and `model.pt2` take 8-bit pixels and include this last step.

## Use

```python
{use}```

On images unlike those it was trained on, the most likely class may be wrong with a high probability.
An image of none of the classes is assigned one of them nevertheless.
"""
