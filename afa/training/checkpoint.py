"""Checkpoints: tensors and plain values only, each file written completely or not at all."""

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afa.config.settings import FIELDS
from afa.data.images import GREY_RANGE
from afa.errors import CheckpointError
from afa.files import read_text, replace_file, sha256
from afa.networks.weights import check_tensors, load_file_safely, problem_of, state_dict_of
from afa.results.outcomes import EpochRow

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, the data that is needed to use it, and the settings of its training.

    Attributes:
        model: the target's state dict under torchvision's keys, head included.
        attention: state dict of the objective; empty for methods without parameters of their own.
        backbone: torchvision's name of the network; empty in a released checkpoint.
        classes: class names in the order of the logits; empty in a released checkpoint.
        image_size, augmentation, background, grey_range: the preprocessing.
        epoch: number of complete epochs; ``top1`` in percent on ``split``.
        balanced: the balanced accuracy in percent on ``split``; NaN in checkpoints of version 0.1.0.
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
    balanced: float = math.nan
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
        for line in read_text(folder / SUMS, errors="replace").splitlines():
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
        check_tensors(model, path)
        return Checkpoint(model=model)
    known["model"] = model
    wrong = _wrong_field(known, _FIELDS) or _wrong_field(known.get("training", {}), _TRAINING)
    if not wrong and (history := known.get("training", {}).get("history")):
        is_complete = [row["epoch"] for row in history] == list(range(1, known["epoch"] + 1))
        wrong = "" if is_complete and len({frozenset(row) for row in history}) == 1 else "history"
    if wrong:
        raise CheckpointError(f"{path}: not a checkpoint of this program: {wrong} has a wrong type or value")
    for tensors in (model, known.get("attention", {})):
        check_tensors(tensors, path)
    return Checkpoint(**known)


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high  # False for NaN


def _is_nan(value: Any) -> bool:
    return type(value) is float and math.isnan(value)


def _is_one_of(value: Any, *choices: str) -> bool:
    return type(value) is str and value in choices  # a tensor cannot be compared with a text


def _is_count(value: Any, high: int) -> bool:
    return type(value) is int and 0 <= value <= high


def _are_strings(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= _MANY and all(type(value) is str for value in values)


def _is_row(row: Any) -> bool:
    """Whether ``row`` is of ``EpochRow.to_dict``: numbers, of which those of a test may be NaN."""
    try:
        values = EpochRow.from_dict(row)
    except (TypeError, AttributeError):
        return False
    scores = (values.loss, values.top1, values.top5, values.balanced)
    others = [value for name, value in row.items() if name not in ("loss", "top1", "top5", "balanced")]
    return _is_count(row["epoch"], _MANY) and all(
        type(value) in (int, float) and (math.isfinite(value) or value in scores) for value in [*scores, *others]
    )


def _is_tensor(value: Any, dtype: torch.dtype, dimensions: int) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype and value.dim() == dimensions and not problem_of(value)


def _are_generators(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(own, tuple) and len(own) in (1, 2) and all(_is_tensor(state, torch.uint8, 1) for state in own)
        for own in values
    )


def _fits(key: str, value: Any) -> bool:
    """Whether ``value`` is possible for a string of the settings that has a pattern."""
    return type(value) is str and re.fullmatch(FIELDS[key].metadata["pattern"], value) is not None


_MANY = 1_000_000
_Check = Callable[[Any], bool]
_FIELDS: dict[str, _Check] = {
    "model": lambda value: True,  # of state_dict_of
    "attention": lambda value: isinstance(value, dict) and all(type(name) is str for name in value),
    "backbone": lambda value: type(value) is str and len(value) < 100,
    "aligned_layers": _are_strings,
    "classes": lambda value: _are_strings(value) and len(value) == len(set(value)),
    "image_size": lambda value: _is_count(value, 2048),
    "augmentation": lambda value: _is_one_of(value, "", "default", "improved"),
    "background": lambda value: _fits("background", value),
    "grey_range": lambda value: _fits("grey_range", value),
    "method": lambda value: type(value) is str,
    "epoch": lambda value: _is_count(value, _MANY),
    "split": lambda value: _is_one_of(value, "", "test", "held_out"),
    "top1": lambda value: _is_number(value, 0, 100) or _is_nan(value),  # NaN: that epoch was not scored
    "balanced": lambda value: _is_number(value, 0, 100) or _is_nan(value),
    "settings": lambda value: type(value) is str and len(value) <= _MANY,
    "training": lambda value: isinstance(value, dict),
}
_TRAINING: dict[str, _Check] = {
    "optimizer": lambda value: isinstance(value, dict) and isinstance(value.get("state"), dict),
    "scaler": lambda value: isinstance(value, dict),
    "generator": lambda value: _is_tensor(value, torch.uint8, 1),
    "cuda_generator": lambda value: value is None or _is_tensor(value, torch.uint8, 1),
    "other_generators": _are_generators,
    "step": lambda value: _is_count(value, 2**62),
    "sums": lambda value: _is_tensor(value, torch.float64, 1),
    "history": lambda value: isinstance(value, list) and all(map(_is_row, value)),
    "seconds": lambda value: _is_number(value, 0, 1e12),
    "inputs": lambda value: isinstance(value, dict) and _are_strings([*value, *value.values()]),
    "log_position": lambda value: _is_count(value, 2**62),
}
"""The schema of a checkpoint: name of a field -> whether its value is possible."""


def _wrong_field(values: Mapping[str, Any], schema: Mapping[str, _Check]) -> str:
    """Name of the first field that does not fit the schema; empty if all of them do."""
    return next((name for name, value in values.items() if name in schema and not schema[name](value)), "")
