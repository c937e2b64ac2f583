"""Checkpoints: tensors and plain values only, written whole or not at all."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afa.errors import CheckpointError
from afa.networks.weights import load_file_safely, sha256, state_dict_of

SUMS = "SHA256SUMS"


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


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, keep: Path | None = None) -> None:
    """Put a checkpoint in ``path``'s place, and its SHA-256 into ``SHA256SUMS`` beside it.

    Written beside, synced, renamed: whenever the program dies, ``path`` is the old file
    or the new one, whole, and listed. ``keep``: where the old file stays.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the old file is intact.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        torch.save(vars(checkpoint), temporary)
        _sync(temporary)
        sums = _read_sums(path.parent)
        new, old = sha256(temporary), sums.get(path.name, [])
        if keep and path.exists():
            # Both states of both files are listed until both files are in place.
            _write_sums(path.parent, {**sums, path.name: [*old, new], keep.name: [*sums.get(keep.name, []), *old]})
            _link(path, keep)
            sums[keep.name] = old
        else:
            _write_sums(path.parent, {**sums, path.name: [*old, new]})
        temporary.replace(path)
        _sync(path.parent)
        _write_sums(path.parent, {**sums, path.name: [new]})
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch.save reports a full disk as a RuntimeError that says nothing of it.
        reason = getattr(error, "strerror", None) or "disk full?"
        raise CheckpointError(f"{path}: cannot be written ({reason}); what was there before is intact") from error


def _link(path: Path, place: Path) -> None:
    """Have ``place`` be the same file as ``path``."""
    link = place.with_name(f"{place.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without links: for a moment there is only ``place``, and it is read then
        path.replace(place)
    else:
        link.replace(place)


def _sync(path: Path) -> None:
    """Have the system write a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_sums(folder: Path) -> dict[str, list[str]]:
    """File name -> the digests it may have, in the format of sha256sum."""
    sums: dict[str, list[str]] = {}
    if (folder / SUMS).exists():
        for line in (folder / SUMS).read_text(errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            sums.setdefault(name, []).append(digest)
    return sums


def _write_sums(folder: Path, sums: Mapping[str, list[str]]) -> None:
    temporary = folder / f"{SUMS}.tmp"
    temporary.write_text("".join(f"{digest}  {name}\n" for name, digests in sums.items() for digest in digests))
    _sync(temporary)
    temporary.replace(folder / SUMS)
    _sync(folder)


def set_aside(path: Path) -> None:
    """Take a damaged file out of the way: the next save must not keep it in place of a whole one."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.damaged"))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program or of the authors' release (``{"model": state_dict}``).

    Raises:
        CheckpointError: see ``load_file_safely``; or its SHA-256 is not the one in ``SHA256SUMS``
            beside it (torch reads a file with altered bytes without a word).
    """
    listed = _read_sums(path.parent).get(path.name)
    if listed and path.exists() and sha256(path) not in listed:
        raise CheckpointError(f"{path}: altered or torn: its SHA-256 is not the one in {SUMS}")
    content = load_file_safely(path)
    model = state_dict_of(content, path)
    known = {name: content[name] for name in Checkpoint.__dataclass_fields__ if name in content}
    if "epoch" not in known or "classes" not in known:
        return Checkpoint(model=model)
    blank = Checkpoint({})
    wrong = [name for name, value in known.items() if not _is_like(value, getattr(blank, name))]
    if wrong:
        raise CheckpointError(f"{path}: not a checkpoint of this program: its {wrong[0]} is of another type")
    return Checkpoint(**{**known, "model": model})


def _is_like(value: Any, default: Any) -> bool:
    """Whether a field's value has the type of its default; lists hold strings."""
    if isinstance(default, list):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, int | float if isinstance(default, float) else type(default))
