"""What an exported network's user must know: as metadata in the file, and as a model card in Markdown."""

import json

from afa import __version__
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_side
from afa.inference.classifier import Classifier
from afa.method.catalogue import METHODS
from afa.networks.backbones import row_of
from afa.networks.weights import sha256

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

network = torchvision.models.get_model("{backbone}", weights=None, num_classes={count}{options})
network.load_state_dict(load_file("model.safetensors"))
logits = network.eval()((pixels / 255 - mean) / std)  # pixels: float (any number, 3, {size}, {size}), RGB
""",
}
_SELECTION = {
    "test": "These are the figures of the best epoch *on the test images*, as in the paper: they are selected on what "
    "they are measured on, and so a little too good.",
    "held_out": "This epoch was chosen on held-out training images; the test images played no part.",
    "": "The checkpoint does not say how it was chosen.",
}


def describe(classifier: Classifier) -> dict[str, str]:
    """Classes and preprocessing, strings under their names, as safetensors and ONNX hold metadata."""
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


def model_card(classifier: Classifier, file: str) -> str:
    """Markdown: what the network is, its figures and how they were selected, how to use it."""
    checkpoint, size = classifier.checkpoint, classifier.preprocessing.image_size
    method = METHODS[checkpoint.method].label if checkpoint.method in METHODS else "unknown"
    options = row_of(classifier.backbone).options
    use = _USE[file].format(
        size=size,
        backbone=classifier.backbone,
        count=len(classifier.classes),
        options="".join(f", {name}={value}" for name, value in options),
    )
    top1 = (
        f"{checkpoint.top1:.2f} % on the {checkpoint.split.replace('_', '-')} images" if checkpoint.split else "unknown"
    )
    names = ", ".join(classifier.classes[:20]) + (", ..." if len(classifier.classes) > 20 else "")
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

{_SELECTION[checkpoint.split]}

## Input

{_preprocessing(classifier)}

## Use

```python
{use}```

The likeliest class of other images than those it was trained on may be wrong with a high probability;
an image of none of the classes gets one of them all the same.
"""


def _preprocessing(classifier: Classifier) -> str:
    size = classifier.preprocessing.image_size
    side = resize_side(size)
    mean, std = (", ".join(map(str, values)) for values in (IMAGENET_MEAN, IMAGENET_STD))
    if classifier.preprocessing.augmentation == "improved":
        shape = (
            f"Short side brought to {side} pixels (bilinear, antialiased); ten crops of {size} x {size}, whose logits"
        )
        shape += " are averaged."
    else:
        shape = f"Resized to {side} x {side} pixels, whatever the aspect (bilinear, antialiased); centre crop"
        shape += f" {size} x {size}."
    return (
        f"RGB. {shape} Mean ({mean}) and standard deviation ({std}) of values from 0 to 1;\n"
        "`model.onnx` and `model.pt2` take 8-bit pixels and do this last step themselves."
    )
