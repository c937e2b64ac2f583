"""One stage of Algorithm 1: train for its epochs, score each, keep the best and the last."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afa.config.layout import BEST, LAST
from afa.config.settings import BackboneSettings, StageSettings
from afa.data.loaders import TestLoader, TrainLoader
from afa.data.transforms import Preprocessing
from afa.errors import AFAError, ConfigError
from afa.method.catalogue import METHODS
from afa.method.objectives import Losses
from afa.networks.features import FeatureNetwork
from afa.results.figures import Row, Score, StageResult
from afa.results.journal import Journal
from afa.results.records import Scalars, write_json, write_log, write_predictions
from afa.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from afa.training.engine import Learner, TestFigures, TrainSums, predict, score, train_one_epoch
from afa.training.optim import count_epochs, learning_rate_factor, set_learning_rate
from afa.training.setup import Start, build_learner, build_target
from afa.training.splits import Split, Splits


@dataclass(frozen=True)
class StageJob:
    """What a stage is given: settings, images, weights to start from, and its folder."""

    stage: StageSettings
    backbone: BackboneSettings
    preprocessing: Preprocessing
    splits: Splits
    start: Start
    seed: int
    batch_size: int
    num_workers: int
    print_freq: int
    device: torch.device
    folder: Path
    title: str
    settings_text: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.splits.train.folder.classes

    @property
    def epochs(self) -> int:
        images = len(self.splits.train.folder)
        return count_epochs(self.stage.max_iter, batch_size=self.batch_size, images=images)

    def test_loader(self, split: Split) -> TestLoader:
        """Batches of a split's test views; no gradients, so more images fit in one than in training."""
        return TestLoader(
            split.folder,
            self.preprocessing,
            batch_size=max(4 * self.batch_size // self.preprocessing.views, 1),
            device=self.device,
            num_workers=self.num_workers,
            canvases=split.canvases,
        )


def train_stage(job: StageJob, journal: Journal) -> StageResult:
    """Train a stage from where it is: its start, or the last checkpoint in its folder.

    Raises:
        AFAError: a loss is not finite; the last checkpoint is as it was.
    """
    (job.folder / BEST).parent.mkdir(parents=True, exist_ok=True)
    learner = build_learner(
        job.backbone,
        job.stage,
        start=job.start,
        num_classes=len(job.classes),
        image_size=job.preprocessing.image_size,
        seed=job.seed,
        device=job.device,
    )
    _check_last_batch(job, learner)
    history, seconds = _go_on(job, learner, journal)
    loader = TrainLoader(
        job.splits.train.folder,
        job.preprocessing,
        batch_size=job.batch_size,
        seed=job.seed,
        device=job.device,
        num_workers=job.num_workers,
        canvases=job.splits.train.canvases,
    )
    scalars = Scalars(job.folder, done=len(history))
    write_log(job.folder / "log.txt", history)
    for epoch in range(len(history), job.epochs):
        started = time.monotonic()
        row = _train_epoch(job, learner, loader, epoch, journal)
        row |= _monitor(job, learner.target, journal)
        seconds += time.monotonic() - started
        is_best = row["top1"] > max((earlier["top1"] for earlier in history), default=-1.0)
        history.append(row)
        _save(job, learner, history, seconds, is_best=is_best)
        write_log(job.folder / "log.txt", history)
        scalars.write(row, job.splits.selected_on)
        journal.say(_epoch_line(job, row, is_best))
    scalars.close()
    return _conclude(job, history, seconds, journal)


def _check_last_batch(job: StageJob, learner: Learner) -> None:
    """Batch-norm cannot train on a single value a channel: one image with maps of one position."""
    images = len(job.splits.train.folder)
    if images % job.batch_size != 1:
        return
    if any(s.height * s.width == 1 for s in learner.target.map_shapes(job.preprocessing.image_size)):
        raise ConfigError(
            f"batch_size: with {job.batch_size} the last batch of {images} images holds a single one, too few for "
            f"batch-norm at image_size = {job.preprocessing.image_size}; choose another batch_size"
        )


def _train_epoch(job: StageJob, learner: Learner, loader: TrainLoader, epoch: int, journal: Journal) -> Row:
    """Train one epoch, counted from 0, and return its training figures."""
    rate = job.stage.learning_rate * learning_rate_factor(
        epoch, epochs=job.epochs, schedule=job.stage.schedule, decay_factor=job.stage.decay_factor
    )
    set_learning_rate(learner.optimizer, rate)
    names = learner.objective.attention_names
    sums = TrainSums(len(names), learner.device)
    where = f"{job.title} epoch {epoch + 1}/{job.epochs}"
    started, step, seen = time.monotonic(), 0, 0
    with journal.progress(where, len(loader.folder)) as bar:

        def after_step(images: int, losses: Losses) -> None:
            nonlocal step, seen
            step, seen = step + 1, seen + images
            # Reading a loss waits for the device, so it is not done at every step.
            if step % job.print_freq == 0 or step == len(loader):
                text = _check_finite(losses, f"{where} step {step}", rate)
                bar.show(text)
                journal.note(
                    f"{where} step {step}/{len(loader)}: {text}, {seen / (time.monotonic() - started):.1f} images/s"
                )
            bar.update(images)

        train_one_epoch(learner, loader.epoch(epoch), sums, after_step)
    figures = sums.figures()
    return {
        "epoch": epoch + 1,
        "learning_rate": rate,
        "classification": figures.classification,
        "head_penalty": figures.head_penalty,
        "alignment": figures.alignment,
        "total": figures.total,
        "train_top1": figures.top1,
        **{f"entropy_{name}": value for name, value in zip(names, figures.entropies, strict=True)},
        "images_per_second": len(loader.folder) / (time.monotonic() - started),
    }


def _check_finite(losses: Losses, where: str, rate: float) -> str:
    """The losses as text. Raises AFAError where one is no number: weights from here on would be worthless."""
    values = dict(zip(losses._fields[:4], torch.stack(losses[:4]).tolist(), strict=True))
    text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    if not all(math.isfinite(value) for value in values.values()):
        raise AFAError(
            f"{where}: a loss is not finite ({text}) at lr {rate:g}; the last checkpoint is as it was; "
            "a smaller lr or alpha may do (alpha depends on the map sizes, so on image_size)"
        )
    return text


def _monitor(job: StageJob, target: FeatureNetwork, journal: Journal) -> Row:
    """Score the target as it stands on the monitored split."""
    _, figures = predict_split(job, target, job.splits.monitor, journal)
    return figures._asdict()


def predict_split(job: StageJob, target: FeatureNetwork, split: Split, journal: Journal) -> tuple[Tensor, TestFigures]:
    """(N, K) logits of a split's images in the folder's order, and their figures."""
    with journal.progress(f"{job.title} testing", len(split.folder)) as bar:
        logits, labels = predict(target, job.test_loader(split), bar.update)
    return logits, score(logits, labels)


def _save(job: StageJob, learner: Learner, history: Sequence[Row], seconds: float, *, is_best: bool) -> None:
    """Write ``best.pth`` if this epoch is it, then ``last.pth``, which also holds what is needed to go on."""
    checkpoint = Checkpoint(
        model=learner.target.network.state_dict(),
        attention=learner.objective.state_dict(),
        backbone=job.backbone.name,
        aligned_layers=list(learner.target.aligned_layers),
        classes=list(job.classes),
        image_size=job.preprocessing.image_size,
        augmentation=job.preprocessing.augmentation,
        method=job.stage.method,
        epoch=len(history),
        split=job.splits.selected_on,
        top1=history[-1]["top1"],
        settings=job.settings_text,
    )
    if is_best:
        save_checkpoint(checkpoint, job.folder / BEST)
    training: dict[str, Any] = {
        "optimizer": learner.optimizer.state_dict(),
        "generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state(job.device) if job.device.type == "cuda" else None,
        "history": list(history),
        "seconds": seconds,
    }
    save_checkpoint(replace(checkpoint, training=training), job.folder / LAST)


def _go_on(job: StageJob, learner: Learner, journal: Journal) -> tuple[list[Row], float]:
    """Bring the learner to the last checkpoint's state, if there is one; the epochs done so far and their seconds."""
    path = job.folder / LAST
    if not path.exists():
        return [], 0.0
    checkpoint = load_checkpoint(path)
    learner.target.network.load_state_dict(checkpoint.model)
    learner.objective.load_state_dict(checkpoint.attention)
    learner.optimizer.load_state_dict(checkpoint.training["optimizer"])
    torch.set_rng_state(checkpoint.training["generator"])
    if job.device.type == "cuda" and checkpoint.training["cuda_generator"] is not None:
        torch.cuda.set_rng_state(checkpoint.training["cuda_generator"], job.device)
    if checkpoint.epoch < job.epochs:
        journal.say(f"{job.title}: going on after epoch {checkpoint.epoch} of {job.epochs}")
    return list(checkpoint.training["history"]), checkpoint.training["seconds"]


def _epoch_line(job: StageJob, row: Row, is_best: bool) -> str:
    return (
        f"{job.title} epoch {row['epoch']}/{job.epochs}: classification {row['classification']:.3f}, "
        f"alignment {row['alignment']:.4g}, train top-1 {row['train_top1']:.2f} %, "
        f"{job.splits.selected_on} top-1 {row['top1']:.2f} %{' (best)' if is_best else ''}, "
        f"{row['images_per_second']:.0f} images/s"
    )


def _conclude(job: StageJob, history: Sequence[Row], seconds: float, journal: Journal) -> StageResult:
    """Score both kept checkpoints on the test images as a user would: read from their files, without attention."""
    scores = {}
    for name in (LAST, BEST):
        path = job.folder / name
        checkpoint = load_checkpoint(path)
        target = build_target(job.backbone, checkpoint, path, job.classes).to(job.device)
        logits, figures = predict_split(job, target, job.splits.test, journal)
        scores[name] = Score(checkpoint.epoch, checkpoint.top1, figures.loss, figures.top1, figures.top5)
    folder = job.splits.test.folder
    labels = torch.tensor(folder.labels)
    write_predictions(job.folder, paths=folder.paths, labels=labels, logits=logits, classes=job.classes)
    rates = sorted(row["images_per_second"] for row in history)
    result = StageResult(
        method=METHODS[job.stage.method].label,
        seed=job.seed,
        epochs=job.epochs,
        selected_on=job.splits.selected_on,
        best=scores[BEST],
        last=scores[LAST],
        images_per_second=rates[len(rates) // 2],
        seconds=seconds,
        folder=str(job.folder),
        start=job.start.origin,
    )
    write_json(job.folder / "stage.json", result.to_dict())
    return result
