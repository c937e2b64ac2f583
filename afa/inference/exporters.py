"""``mode=export``: a trained network as one file for other programs, with metadata and a model card."""

import io
import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.export import ExportedProgram
from torchvision.models import get_model

from afa.config.tasks import ExportSettings
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from afa.errors import AFAError, ConfigError, one_line
from afa.files import keep_old, replace_file, write_json, write_text
from afa.inference.classifier import Classifier, load_classifier, read_classes
from afa.inference.model_card import CARD, METADATA, as_strings, card_text, metadata, torchvision_options
from afa.results.journal import say


class Deployed(nn.Module):
    """Pixels -> logits: the normalisation of ``data.transforms.normalise``, then the network."""

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


def trace(classifier: Classifier) -> ExportedProgram:
    """Graph of the network with its normalisation, on the CPU, for any number of images."""
    size = classifier.preprocessing.image_size
    # Two images: torch would treat a batch of one as a constant.
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    module = Deployed(classifier.target.network.cpu()).eval()
    return torch.export.export(module, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}})


def write_torch_export(classifier: Classifier, path: Path) -> None:
    """Write a file for ``torch.export.load``."""
    buffer = io.BytesIO()  # torch would write to a full disk again when its writer is destroyed, and abort
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights that are not on the CPU; these are
        torch.export.save(trace(classifier), buffer)
    path.write_bytes(buffer.getvalue())


def write_onnx(classifier: Classifier, path: Path) -> None:
    """Write ONNX with the input ``pixels``, the output ``logits`` and the metadata."""
    program = torch.onnx.export(
        trace(classifier), dynamo=True, input_names=["pixels"], output_names=["logits"], verbose=False
    )
    assert program is not None  # it is None without dynamo
    program.model.metadata_props.update(as_strings(metadata(classifier)))
    path.write_bytes(program.model_proto.SerializeToString())


def write_safetensors(classifier: Classifier, path: Path) -> None:
    """Write the weights that evaluation uses, under torchvision's keys, and the metadata."""
    with torch.device("meta"):
        used = get_model(classifier.backbone, weights=None, **torchvision_options(classifier)).state_dict()
    state = classifier.target.network.state_dict()
    tensors = {name: state[name].contiguous().cpu() for name in used}
    # Not save_file: it makes a file that only its owner can read, whatever the umask.
    path.write_bytes(save(tensors, metadata=as_strings(metadata(classifier))))


FORMATS: dict[str, tuple[str, Callable[[Classifier, Path], None], tuple[str, ...]]] = {
    "onnx": ("model.onnx", write_onnx, ("onnx", "onnxscript")),
    "torch_export": ("model.pt2", write_torch_export, ()),
    "safetensors": ("model.safetensors", write_safetensors, ()),
}
"""Format -> file name, function that writes it, packages that it requires in addition to those of AFA."""


def export(settings: ExportSettings) -> None:
    """Write the network, its metadata as JSON and its model card to ``settings.output``.

    The card covers all formats of the checkpoint that are in the folder. Files of another checkpoint and files that
    would be replaced are renamed.

    Raises:
        AFAError: see its subclasses; also if a required package is not installed.
    """
    file, write_format, packages = FORMATS[settings.format]
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ConfigError(f"format={settings.format} needs more packages: pip install {' '.join(missing)}")
    classifier = load_classifier(
        settings.pre_trained_path,
        outpath=settings.outpath,
        gpu_id="cpu",
        base_model_name=settings.base_model_name,
        classes=read_classes(settings.classes_file),
    )
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    path, values = folder / file, metadata(classifier)
    present = [name for name, *_ in FORMATS.values() if (folder / name).exists()]
    older = [file]
    if not _contains(folder / METADATA, json.dumps(values), json.loads):
        older += [*present, METADATA]
    if not _contains(folder / CARD, card_text(classifier, present)):
        older.append(CARD)
    kept: list[str] = []

    def write(temporary: Path) -> None:
        try:
            write_format(classifier, temporary)
        except OSError:
            raise
        except Exception as error:  # the exporters raise nearly every type
            raise AFAError(
                f"{path}: {classifier.backbone} cannot be exported to this format: {one_line(error)}"
            ) from error
        # Only now: a failed export must leave the older one as it is.
        kept.extend(old.name for name in dict.fromkeys(older) if (old := keep_old(folder / name)))

    try:
        replace_file(path, write)
    except OSError as error:
        raise AFAError(f"{path}: cannot be written: {error.strerror or error}") from None
    write_json(folder / METADATA, values)
    write_text(
        folder / CARD, card_text(classifier, [name for name, *_ in FORMATS.values() if (folder / name).exists()])
    )
    note = f"; the older files are kept as {', '.join(kept)}" if kept else ""
    say(f"{path}: exported; classes and preprocessing are in {METADATA}, the model card is {CARD}{note}")


def _contains(path: Path, text: str, parse: Callable[[str], Any] = str) -> bool:
    """Whether a file contains ``text``, as far as ``parse`` distinguishes."""
    try:
        return bool(parse(path.read_text(encoding="utf-8")) == parse(text))
    except (OSError, ValueError):
        return False
