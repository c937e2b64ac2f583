"""``mode=export``: a trained network as one file for other programs, with a model card beside it."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from afa.config.tasks import ExportSettings
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from afa.errors import AFAError, ConfigError, one_line
from afa.inference.card import CARD, METADATA, describe, model_card
from afa.inference.classifier import Classifier, load_classifier, read_classes
from afa.results.records import keep_old, write_json, write_text


class Deployed(nn.Module):
    """Pixels -> logits: what ``data.transforms.normalise`` computes, then the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([[[value]] for value in IMAGENET_MEAN]))
        self.register_buffer("std", torch.tensor([[[value]] for value in IMAGENET_STD]))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, S, S), RGB -> (B, K) logits."""
        return self.network((pixels.float() / 255 - self.mean) / self.std)


class Traceable(NamedTuple):
    """What both exporters trace, for any number of images."""

    module: Deployed
    example: tuple[Tensor]
    dynamic_shapes: dict[str, dict[int, Any]]


def traceable(classifier: Classifier) -> Traceable:
    """The network with its normalisation, on the CPU."""
    size = classifier.preprocessing.image_size
    # Two images: torch takes a batch of one for a constant.
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    deployed = Deployed(classifier.target.network.cpu()).eval()
    return Traceable(deployed, (example,), {"pixels": {0: torch.export.Dim("batch")}})


def write_torch_export(classifier: Classifier, path: Path) -> None:
    """``torch.export.load(path).module()`` gives the network back."""
    module, example, shapes = traceable(classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a remark on weights that are not on the CPU; these are
        torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), path)


def write_onnx(classifier: Classifier, path: Path) -> None:
    """ONNX with the input ``pixels``, the output ``logits``, and the metadata of ``describe``."""
    import onnx

    module, example, shapes = traceable(classifier)
    torch.onnx.export(
        module,
        example,
        path,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=["pixels"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, describe(classifier))
    onnx.save(model, path)


def write_safetensors(classifier: Classifier, path: Path) -> None:
    """The weights under torchvision's keys, and the metadata of ``describe``; the network's code is torchvision's."""
    state = {name: value.contiguous().cpu() for name, value in classifier.target.network.state_dict().items()}
    save_file(state, path, metadata=describe(classifier))


class Format(NamedTuple):
    """``packages`` are needed beyond the program's own."""

    file: str
    write: Callable[[Classifier, Path], None]
    packages: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "onnx": Format("model.onnx", write_onnx, ("onnx", "onnxscript")),
    "torch_export": Format("model.pt2", write_torch_export),
    "safetensors": Format("model.safetensors", write_safetensors),
}


def export(settings: ExportSettings) -> None:
    """Write the network, its metadata as JSON and its card to ``settings.output``; older files there are kept.

    Raises:
        AFAError: see its subclasses; also for packages that are missing.
    """
    kind = FORMATS[settings.format]
    missing = [name for name in kind.packages if find_spec(name) is None]
    if missing:
        raise ConfigError(f"format={settings.format} needs more: pip install {' '.join(missing)}")
    classifier = load_classifier(
        settings.pre_trained_path,
        outpath=settings.outpath,
        gpu_id="cpu",
        base_model_name=settings.base_model_name,
        classes=read_classes(settings.classes_file),
    )
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / kind.file
    temporary = place.with_name(f"tmp_{place.name}")
    try:
        kind.write(classifier, temporary)
    except Exception as error:  # the exporters raise nearly every type
        temporary.unlink(missing_ok=True)
        raise AFAError(f"{place}: {classifier.backbone} cannot be exported so: {one_line(error)}") from error
    moved = [old for old in map(keep_old, (place, folder / METADATA, folder / CARD)) if old]
    temporary.replace(place)
    write_json(folder / METADATA, describe(classifier))
    write_text(folder / CARD, model_card(classifier, kind.file))
    kept = f"; what was there is kept as {', '.join(path.name for path in moved)}" if moved else ""
    print(f"{place}, its classes and preprocessing in {METADATA}, its card in {CARD}{kept}")
