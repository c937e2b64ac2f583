"""Checkpoints: tensors and plain values only, written whole or not at all."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afa.errors import CheckpointError
from afa.networks.weights import load_file_safely, state_dict_of


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with what is needed to use it, and where it came from.

    Attributes:
        model: the target's state dict under torchvision's keys, head included.
        attention: the attentive modules' state dict; empty for methods without.
        backbone: torchvision's name of the network; empty in a released checkpoint.
        classes: class names in the order of the logits; empty in a released checkpoint.
        image_size, augmentation: the preprocessing.
        epoch: whole epochs trained, counted from 1; ``top1`` in percent on ``split``.
        settings: the run's settings as HOCON text.
        training: what is needed to go on (``last.pth`` only).
    """

    model: dict[str, Tensor]
    attention: dict[str, Tensor] = field(default_factory=dict)
    backbone: str = ""
    aligned_layers: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    image_size: int = 0
    augmentation: str = ""
    method: str = ""
    epoch: int = 0
    split: str = ""
    top1: float = 0.0
    settings: str = ""
    training: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write beside, sync, rename: ``path`` is the old file or the new one, whole, whenever the program dies."""
    write_atomically(path, lambda temporary: torch.save(vars(checkpoint), temporary))


def write_atomically(path: Path, write: Any) -> None:
    """Let ``write`` fill a temporary file in the same folder, then put it in ``path``'s place.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the old file is intact.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        # torch.save reports a full disk as a RuntimeError that says nothing of it.
        reason = getattr(error, "strerror", None) or "disk full?"
        raise CheckpointError(f"{path}: cannot be written ({reason}); what was there before is intact") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program or of the authors' release (``{"model": state_dict}``).

    Raises:
        CheckpointError: see ``load_file_safely``.
    """
    content = load_file_safely(path)
    model = state_dict_of(content, path)
    known: Mapping[str, Any] = {
        name: value for name, value in content.items() if name in Checkpoint.__dataclass_fields__
    }
    if "epoch" not in known or "classes" not in known:
        return Checkpoint(model=model)
    try:
        return Checkpoint(**{**known, "model": model})
    except TypeError as error:
        raise CheckpointError(f"{path}: not a checkpoint of this program: {error}") from None
