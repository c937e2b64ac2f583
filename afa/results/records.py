"""Files of a stage: ``log.txt``, TensorBoard scalars, predictions."""

import io
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from afa.files import append_bytes, write_csv, write_text
from afa.results.outcomes import LOG_COLUMNS, EpochRow, class_scores
from afa.results.run_folder import StageFolder


def rank_classes(logits: Tensor, k: int = 5) -> Tensor:
    """(N, min(k, K)) indices of the classes with the highest of the (N, K) logits, the highest first.

    All code ranks by logits: softmax in float32 can make different logits equal.
    """
    return logits.topk(min(k, logits.shape[1]), dim=1).indices


def write_log(path: Path, history: Sequence[EpochRow]) -> None:
    """Write ``log.txt``: a tab-separated line for each epoch, with the column names of the authors' release."""
    lines = ["\t".join(LOG_COLUMNS)]
    for row in history:
        metrics = [f"{getattr(row, name):.6f}" for name in LOG_COLUMNS.values() if name != "epoch"]
        lines.append("\t".join([str(row.epoch), *metrics]))
    write_text(path, "\n".join(lines) + "\n")


class EventFile:
    """A file for TensorBoard in ``folder``. torch's writer has a thread, whose error on a full disk is a traceback."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, which contain the second of their creation: the new
        # file must be the last one, whatever the clock shows.
        seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
        second = max([int(time.time()), *(int(text) + 1 for text in seconds if text.isdigit())])
        self._path = folder / f"events.out.tfevents.{second}.{os.getpid()}"
        self.add(file_version="brain.Event:2")

    def write(self, summaries: Sequence[Any], step: int = 0) -> None:
        """Add summaries, see ``torch.utils.tensorboard.summary``. Raises AFAError if the file cannot be written."""
        self.add(*({"summary": summary, "step": step} for summary in summaries))

    def add(self, *events: Mapping[str, Any], **event: Any) -> None:
        """Add events with the given fields."""
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        content = io.BytesIO()
        writer = RecordWriter(content)
        for fields in events or (event,):
            writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        append_bytes(self._path, content.getvalue())


class Scalars:
    """TensorBoard scalars of a stage from epoch ``done`` + 1 on; TensorBoard ignores these epochs in earlier files."""

    def __init__(self, folder: StageFolder, done: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # only training needs it, and it is slow to import

        self._file = EventFile(folder.tensorboard)
        self._file.add(step=done + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, row: EpochRow, selected_on: str) -> None:
        """Write one epoch. ``selected_on``: the split of ``row.top1`` and ``row.loss``."""
        from torch.utils.tensorboard.summary import scalar

        losses = ("classification", "head_penalty", "alignment", "total")
        scalars = {f"loss/{name}": getattr(row, name) for name in losses}
        scalars |= {"accuracy/train_top1": row.train_top1, "optimiser/learning_rate": row.learning_rate}
        if row.is_scored:
            scalars |= {
                f"accuracy/{selected_on}_top1": row.top1,
                f"accuracy/{selected_on}_balanced": row.balanced,
                f"loss/{selected_on}_cross_entropy": row.loss,
            }
        scalars |= {f"attention_entropy/{name}": entropy for name, entropy in row.entropies.items()}
        self._file.write([scalar(tag, value) for tag, value in scalars.items()], row.epoch)


class MostProbable(NamedTuple):
    """The most probable classes of N images in descending order, at most five: (N, k) indices and probabilities."""

    indices: Tensor
    probabilities: Tensor

    def named(self, classes: Sequence[str]) -> Iterator[list[tuple[str, float]]]:
        """Name and probability of the classes of each image."""
        for chunk in zip(self.indices.split(1024), self.probabilities.split(1024), strict=True):
            for row in zip(*(part.tolist() for part in chunk), strict=True):
                yield [(classes[index], probability) for index, probability in zip(*row, strict=True)]


def most_probable(logits: Tensor) -> MostProbable:
    """The most probable classes of each row of the (N, K) logits."""
    ranked = rank_classes(logits)
    return MostProbable(ranked, logits.softmax(dim=1).gather(1, ranked))


def write_most_probable(
    path: Path, columns: Mapping[str, Sequence[object]], found: MostProbable, classes: Sequence[str]
) -> None:
    """Write a CSV file with a row for each image: the ``columns``, then the most probable classes.

    Raises:
        AFAError: it cannot be written.
    """
    ranks = range(1, found.indices.shape[1] + 1)
    header = [*columns, *(name for rank in ranks for name in (f"top{rank}", f"probability{rank}"))]
    cells = ([cell for name, value in named for cell in (name, f"{value:.6f}")] for named in found.named(classes))
    write_csv(path, header, ([*own, *more] for *own, more in zip(*columns.values(), cells, strict=True)))


def write_predictions(
    folder: StageFolder, *, paths: Sequence[Path], labels: Tensor, logits: Tensor, classes: Sequence[str]
) -> None:
    """Write ``predictions.csv``, one row for each image with its five most probable classes, and ``per_class.csv``.

    ``labels`` are the (N,) class indices, ``logits`` (N, K), averaged over the views of an image. ``per_class.csv`` has
    precision, recall and F1 of each class in percent; a value that is not defined is empty.
    """
    found = most_probable(logits)
    true, predicted = ([classes[index] for index in each.tolist()] for each in (labels, found.indices[:, 0]))
    correct = (found.indices[:, 0] == labels).int().tolist()
    write_most_probable(folder.predictions_csv, {"path": paths, "true": true, "correct": correct}, found, classes)
    rows = []
    for score in class_scores(true, predicted, classes):
        percent = ["" if math.isnan(x) else f"{x:.2f}" for x in (score.precision, score.recall, score.f1)]
        rows.append([*score, *percent])
    header = ["class", "images", "predicted", "correct", "precision", "recall", "f1"]
    write_csv(folder.per_class_csv, header, rows)
