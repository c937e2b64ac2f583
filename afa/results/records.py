"""Files of a stage: ``log.txt``, TensorBoard scalars, predictions."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from afa.files import write_csv, write_text
from afa.results.outcomes import LOG_COLUMNS, EpochRow
from afa.results.run_folder import StageFolder


def rank_classes(logits: Tensor, k: int = 5) -> Tensor:
    """(N, min(k, K)) indices of the classes with the highest of the (N, K) logits, the highest first.

    All code ranks by logits: softmax in float32 can make different logits equal.
    """
    return logits.topk(min(k, logits.shape[1]), dim=1).indices


def write_log(path: Path, history: Sequence[EpochRow]) -> None:
    """Write ``log.txt``: a tab-separated line for each epoch, with the column names of the authors' release.

    Raises:
        AFAError: it cannot be written.
    """
    lines = ["\t".join(LOG_COLUMNS)]
    for row in history:
        metrics = [f"{getattr(row, name):.6f}" for name in LOG_COLUMNS.values() if name != "epoch"]
        lines.append("\t".join([str(row.epoch), *metrics]))
    write_text(path, "\n".join(lines) + "\n")


class Scalars:
    """TensorBoard scalars of a stage, from epoch ``done`` + 1 on; later epochs of an earlier process are hidden."""

    def __init__(self, folder: StageFolder, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # only training needs it, and it is slow to import

        # TensorBoard reads files in the order of their names, which start with the second of their creation:
        # the new file must sort last.
        second = int(time.time())
        if any(path.name.split(".")[3] == str(second) for path in folder.tensorboard.glob("events.out.tfevents.*")):
            time.sleep(max(second + 1 - time.time(), 0))
        self._writer = SummaryWriter(folder.tensorboard, purge_step=done + 1)

    def write(self, row: EpochRow, selected_on: str) -> None:
        """Write one epoch. ``selected_on``: the split of ``row.top1`` and ``row.loss``."""
        scalars = {
            "loss/classification": row.classification,
            "loss/head_penalty": row.head_penalty,
            "loss/alignment": row.alignment,
            "loss/total": row.total,
            "accuracy/train_top1": row.train_top1,
            "optimiser/learning_rate": row.learning_rate,
        }
        if row.is_scored:
            scalars |= {f"accuracy/{selected_on}_top1": row.top1, f"loss/{selected_on}_cross_entropy": row.loss}
        scalars |= {f"attention_entropy/{name}": entropy for name, entropy in row.entropies.items()}
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def write_predictions(
    folder: StageFolder, *, paths: Sequence[Path], labels: Tensor, logits: Tensor, classes: Sequence[str]
) -> None:
    """Write ``predictions.csv``, one row for each image with its five most probable classes, and ``per_class.csv``.

    Args:
        labels: (N,) class indices.
        logits: (N, K), averaged over the views of an image.

    Raises:
        AFAError: a file cannot be written.
    """
    ranked = rank_classes(logits)
    probabilities = logits.softmax(dim=1).gather(1, ranked)
    is_correct = ranked[:, 0] == labels
    rows = []
    for path, label, correct, indices, values in zip(
        paths, labels.tolist(), is_correct.tolist(), ranked.tolist(), probabilities.tolist(), strict=True
    ):
        guesses = [cell for i, value in zip(indices, values, strict=True) for cell in (classes[i], f"{value:.6f}")]
        rows.append([path, classes[label], int(correct), *guesses])
    columns = [name for rank in range(1, ranked.shape[1] + 1) for name in (f"top{rank}", f"probability{rank}")]
    write_csv(folder.predictions_csv, ["path", "true", "correct", *columns], rows)

    images = torch.bincount(labels, minlength=len(classes)).tolist()
    hits = torch.bincount(labels[is_correct], minlength=len(classes)).tolist()
    counts = zip(classes, images, hits, strict=True)
    rows = [[name, total, correct, f"{100 * correct / total:.2f}"] for name, total, correct in counts]
    write_csv(folder.per_class_csv, ["class", "images", "correct", "top1"], rows)
