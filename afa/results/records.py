"""The files of a run. Each is written whole or not at all; a run folder that exists is never deleted."""

import contextlib
import csv
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from afa.errors import AFAError, BusyError
from afa.results.figures import LOG_COLUMNS, Row

T = TypeVar("T")


def claim_folder(folder: Path) -> Any:
    """Make the folder and lock it for this process's life; the system frees a dead process's lock.

    It keeps other processes out, not other threads of this one.

    Returns:
        the open lock file, to be kept.

    Raises:
        BusyError: another run lives in it.
        AFAError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise AFAError(f"{folder}: cannot be written: {error.strerror}; choose another outpath=<folder>") from None
    try:
        # Not flock: the workers of a killed run would hold it for the seconds that they outlive it.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise BusyError(
            f"{folder}: another run is at work there; wait for it, or choose another exp_id=<name>"
        ) from None
    return lock


def move_aside(folder: Path) -> Path:
    """Rename an old run's folder to ``<name>.old-1``, ``-2``, ... and return its new place.

    Raises:
        AFAError: a run is at work in it, or it cannot be renamed.
    """
    number = 1
    while (place := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with claim_folder(folder):
        try:
            return folder.rename(place)
        except OSError as error:
            raise AFAError(f"{folder}: cannot be renamed to {place.name}: {error.strerror}") from None


def keep_old(path: Path) -> Path | None:
    """Rename a file that is about to be written again to ``<stem>.old-1<suffix>``, ``-2``, ...; its new place.

    Raises:
        AFAError: it cannot be renamed.
    """
    if not path.exists():
        return None
    number = 1
    while (place := path.with_name(f"{path.stem}.old-{number}{path.suffix}")).exists():
        number += 1
    try:
        return path.rename(place)
    except OSError as error:
        raise AFAError(f"{path}: cannot be renamed to {place.name}: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise AFAError(f"{path}: cannot be written: {error.strerror}") from None


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, build: Callable[[Any], T]) -> T:
    """What ``write_json`` wrote, as ``build`` makes it from plain values.

    Raises:
        AFAError: it was altered since.
    """
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise AFAError(
            f"{path}: altered or torn; remove it, and the same command makes it again from the checkpoints"
        ) from None


def write_log(path: Path, history: Sequence[Row]) -> None:
    """``log.txt``: tab-separated, a line an epoch, under the released columns."""
    lines = ["\t".join(LOG_COLUMNS)]
    for row in history:
        lines.append(
            "\t".join(f"{row[name]:.6f}" if name != "epoch" else str(row[name]) for name in LOG_COLUMNS.values())
        )
    write_text(path, "\n".join(lines) + "\n")


def _let_the_second_pass(folder: Path) -> None:
    """TensorBoard reads files in the order of their names, which begin with the second: this one is to be the last."""
    second = int(time.time())
    if any(path.name.split(".")[3] == str(second) for path in folder.glob("events.out.tfevents.*")):
        time.sleep(max(second + 1 - time.time(), 0))


class Scalars:
    """TensorBoard scalars of a stage, ``<folder>/tensorboard``, from epoch ``done`` + 1 on."""

    def __init__(self, folder: Path, done: int) -> None:
        _let_the_second_pass(folder / "tensorboard")
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=done + 1)

    def write(self, row: Row, selected_on: str) -> None:
        """One epoch."""
        groups = {
            "loss": ["classification", "head_penalty", "alignment", "total"],
            "accuracy": ["train_top1"],
            "optimiser": ["learning_rate"],
        }
        for group, names in groups.items():
            for name in names:
                self._writer.add_scalar(f"{group}/{name}", row[name], row["epoch"])
        if not math.isnan(row["top1"]):  # else the epoch was not scored
            self._writer.add_scalar(f"accuracy/{selected_on}_top1", row["top1"], row["epoch"])
            self._writer.add_scalar(f"loss/{selected_on}_cross_entropy", row["loss"], row["epoch"])
        for name in (name for name in row if name.startswith("entropy_")):
            self._writer.add_scalar(f"attention_entropy/{name.removeprefix('entropy_')}", row[name], row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class NoScalars:
    """What another process writes."""

    def write(self, row: Row, selected_on: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def write_predictions(
    folder: Path, *, paths: Sequence[Path], labels: Tensor, logits: Tensor, classes: Sequence[str]
) -> None:
    """``predictions.csv``, a row an image with its five likeliest classes, and ``per_class.csv``.

    Args:
        labels: (N,); logits: (N, K), averaged over an image's views.
    """
    top = logits.softmax(dim=1).topk(min(5, len(classes)), dim=1)
    ranks = range(top.indices.shape[1])
    header = ["path", "true", "correct"] + [name for r in ranks for name in (f"top{r + 1}", f"probability{r + 1}")]
    correct = (top.indices[:, 0] == labels).tolist()
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for path, label, hit, indices, values in zip(
            paths, labels.tolist(), correct, top.indices.tolist(), top.values.tolist(), strict=True
        ):
            guesses = [cell for i, value in zip(indices, values, strict=True) for cell in (classes[i], f"{value:.6f}")]
            writer.writerow([path, classes[label], int(hit), *guesses])
    with (folder / "per_class.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "correct", "top1"])
        for label, name in enumerate(classes):
            hits = [hit for hit, own in zip(correct, labels.tolist(), strict=True) if own == label]
            writer.writerow([name, len(hits), sum(hits), f"{100 * sum(hits) / len(hits):.2f}"])
