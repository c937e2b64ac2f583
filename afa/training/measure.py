"""What a stage costs, measured on a few of its real steps, test batches and checkpoints."""

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from afa.config.layout import BEST, LAST
from afa.data.loaders import Batch, TestBatch
from afa.networks.features import FeatureNetwork
from afa.results.journal import Journal
from afa.training.engine import Step, predict, train_one_epoch
from afa.training.finite import FiniteCheck
from afa.training.job import StageJob
from afa.training.signals import Signals
from afa.training.stage import StageRun
from afa.training.state import save_best, save_state

_LAPS = 6
_SECONDS = 10.0  # of measuring a kind of work; one lap may take longer
_PREDICTION_BYTES = 200  # a row of predictions.csv

AnyBatch = TypeVar("AnyBatch", Batch, TestBatch)


@dataclass(frozen=True)
class StageEstimate:
    """What one stage of one repeat will take.

    Attributes:
        title: as the run names it.
        epochs: of training; 0 for an evaluation.
        images_per_second: of training, or of an evaluation.
        seconds: training, scoring after each epoch, checkpoints, and the scores at the end.
        disk_bytes: what stays; ``spare_bytes`` more while a checkpoint is being replaced.
        memory_bytes: the most that this process has held so far.
        card_bytes: the most that it took of a CUDA card's memory; 0 without one.
    """

    title: str
    epochs: int
    images_per_second: float
    seconds: float
    disk_bytes: int
    spare_bytes: int
    memory_bytes: int
    card_bytes: int


class Laps:
    """Lets a few batches through and times what is done with each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[tuple[float, int]] = []

    def limit(self, batches: Iterable[AnyBatch]) -> Iterator[AnyBatch]:
        """The first batches, until enough is known."""
        begun = last = time.monotonic()
        for batch in batches:
            yield batch
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            now = time.monotonic()
            self._laps.append((now - last, len(batch.labels)))
            last = now
            if len(self._laps) == _LAPS or now - begun > _SECONDS:
                return

    @property
    def seconds_per_image(self) -> float:
        """Without the first lap, where there are more: it starts workers and warms caches up."""
        laps = self._laps[1:] or self._laps
        return sum(seconds for seconds, _ in laps) / sum(images for _, images in laps)


def peak_memory() -> int:
    """Bytes: the most that this process has held in memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux KiB


def card_memory(device: torch.device) -> int:
    """Bytes of a CUDA card that torch has held at most since the last reset; 0 on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0


def time_scoring(target: FeatureNetwork, batches: Iterable[TestBatch], device: torch.device) -> float:
    """Seconds that an image takes to be scored."""
    laps = Laps(device)
    predict(target, laps.limit(batches))
    return laps.seconds_per_image


def measure_stage(job: StageJob, journal: Journal, signals: Signals) -> tuple[StageEstimate, StageRun, Step]:
    """Start a stage in ``job.folder``, take a few steps, score a few images, write its checkpoints.

    Returns:
        what the whole stage would take; the stage as it stands; its last step.

    Raises:
        AFAError: whatever would stop the stage from starting.
    """
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)
    run = StageRun(job, journal, signals)
    training, finite = Laps(job.device), FiniteCheck(job.device)
    steps: list[Step] = []

    def after_step(batch: Batch, step: Step) -> None:
        finite.look(step.figures, lambda: f"{job.title} step {len(steps) + 1}, lr {job.stage.learning_rate:g}")
        steps.append(step)
        signals.raise_if_ending()

    train_one_epoch(run.learner, training.limit(job.train_loader().epoch(0)), run.state.sums, after_step)
    finite.flush()
    finite.check_weights(run.learner.target.network.state_dict(), job.title)
    scoring = time_scoring(run.learner.target, job.test_loader(job.splits.monitor), job.device)
    begun = time.monotonic()
    save_state(job, run.learner, run.state, 0)
    save_best(job, run.learner, run.state)
    saving = time.monotonic() - begun
    estimate = _add_up(job, training.seconds_per_image, scoring, saving)
    return estimate, run, steps[-1]


def _add_up(job: StageJob, training: float, scoring: float, saving: float) -> StageEstimate:
    """Seconds an image trained on, seconds an image scored, seconds an epoch's checkpoints -> the stage's."""
    train, monitor, test = (len(split.folder) for split in (job.splits.train, job.splits.monitor, job.splits.test))
    scored = math.ceil(job.epochs / job.test_every)
    last, best = ((job.folder / name).stat().st_size for name in (LAST, BEST))
    return StageEstimate(
        title=job.title,
        epochs=job.epochs,
        images_per_second=1 / training,
        # Both kept checkpoints are scored on the test images at the end.
        seconds=job.epochs * (train * training + saving) + (scored * monitor + 2 * test) * scoring,
        disk_bytes=2 * last + best + test * _PREDICTION_BYTES,  # last.pth and the one before it
        spare_bytes=last,
        memory_bytes=peak_memory(),
        card_bytes=card_memory(job.device),
    )
