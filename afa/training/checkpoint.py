"""Checkpoints: tensors and plain values only, each file written completely or not at all."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afa.data.images import GREY_RANGE
from afa.errors import CheckpointError
from afa.files import replace_file, sha256
from afa.networks.weights import load_file_safely, state_dict_of
from afa.results.outcomes import EpochRow

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, what is needed to use it, and how it was trained.

    Attributes:
        model: the target's state dict under torchvision's keys, head included.
        attention: state dict of the objective; empty for methods without parameters of their own.
        backbone: torchvision's name of the network; empty in a released checkpoint.
        classes: class names in the order of the logits; empty in a released checkpoint.
        image_size, augmentation, background, grey_range: the preprocessing.
        epoch: number of complete epochs; ``top1`` in percent on ``split``.
        settings: the run's settings as HOCON text.
        training: what is needed to resume (``last.pth`` only).
    """

    model: dict[str, Tensor]
    attention: dict[str, Tensor] = field(default_factory=dict)
    backbone: str = ""
    aligned_layers: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    image_size: int = 0
    augmentation: str = ""
    background: str = ""
    grey_range: str = GREY_RANGE
    method: str = ""
    epoch: int = 0
    split: str = ""
    top1: float = 0.0
    settings: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        score = f", top-1 {self.top1:.2f} % on {self.split}" if self.split else ""
        name, method = self.backbone or "released checkpoint", self.method or "unknown method"
        return f"Checkpoint({name}, {len(self.classes)} classes, {method}, epoch {self.epoch}{score})"

    @property
    def history(self) -> list[EpochRow]:
        """One row for each complete epoch (``last.pth`` only)."""
        return [EpochRow.from_dict(row) for row in self.training.get("history", [])]


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, keep: Path | None = None) -> None:
    """Replace the checkpoint at ``path``, and update its SHA-256 in ``SHA256SUMS`` in the same folder.

    Whenever the program dies, ``path`` is the complete old or the complete new file, and its digest is listed.

    Args:
        keep: path at which the old file remains.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the old file is intact.
    """
    digests = _read_sums(path.parent)
    old = digests.get(path.name, [])
    if keep and path.exists():
        digests[keep.name] = [*digests.get(keep.name, []), *old]

    def write(temporary: Path) -> None:
        torch.save(vars(checkpoint), temporary)
        digests[path.name] = [*old, sha256(temporary)]
        # The digests of both states of both files are listed until both files are replaced.
        _write_sums(path.parent, digests)
        if keep and path.exists():
            _link(path, keep)

    try:
        replace_file(path, write)
        _write_sums(path.parent, {**digests, path.name: digests[path.name][-1:], **({keep.name: old} if keep else {})})
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError that does not say so.
        reason = getattr(error, "strerror", None) or "disk full?"
        raise CheckpointError(f"{path}: cannot be written ({reason}); the previous file is intact") from error


def _link(path: Path, new: Path) -> None:
    """Make ``new`` the same file as ``path``."""
    temporary = new.with_name(f"{new.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(path)
    except OSError:  # a file system without hard links: for a moment only ``new`` exists, and a restart reads it
        path.replace(new)
    else:
        temporary.replace(new)


def _read_sums(folder: Path) -> dict[str, list[str]]:
    """File name -> the digests that it may have, in the format of sha256sum."""
    digests: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / SUMS).read_text(errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            digests.setdefault(name, []).append(digest)
    return digests


def _write_sums(folder: Path, digests: Mapping[str, list[str]]) -> None:
    text = "".join(f"{digest}  {name}\n" for name, listed in digests.items() for digest in listed)
    replace_file(folder / SUMS, lambda temporary: temporary.write_text(text))


def set_aside(path: Path) -> None:
    """Rename a damaged file, so that the next save does not keep it in place of an intact one."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.damaged"))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program or of the authors' release (``{"model": state_dict}``).

    Raises:
        CheckpointError: see ``load_file_safely``; or its SHA-256 differs from the one in ``SHA256SUMS`` in the
            same folder (torch reads a file with modified bytes without an error).
    """
    listed = _read_sums(path.parent).get(path.name)
    if listed and path.exists() and sha256(path) not in listed:
        raise CheckpointError(f"{path}: modified or incomplete: its SHA-256 differs from the one in {SUMS}")
    content = load_file_safely(path)
    model = state_dict_of(content, path)
    known = {name: content[name] for name in Checkpoint.__dataclass_fields__ if name in content}
    if "epoch" not in known or "classes" not in known:
        return Checkpoint(model=model)
    default = Checkpoint({})
    wrong = [name for name, value in known.items() if not _has_type_of(value, getattr(default, name))]
    if wrong:
        raise CheckpointError(f"{path}: not a checkpoint of this program: {wrong[0]} has the wrong type")
    return Checkpoint(**{**known, "model": model})


def _has_type_of(value: Any, default: Any) -> bool:
    """Whether a field's value has the type of its default; lists hold strings."""
    if isinstance(default, list):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, int | float if isinstance(default, float) else type(default))
