"""``dry_run=true``: check a run, take a few real steps of each stage, and estimate its cost; no file is kept."""

import itertools
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import NamedTuple, TypeVar

import torch

from afa.commands.algorithm import check_folder, report_dead_workers, stages
from afa.commands.delta_weights import estimate_increases
from afa.commands.descriptions import describe_data, describe_stage
from afa.commands.evaluation import prepare_evaluation
from afa.commands.first_steps import FirstSteps
from afa.commands.fixed_weights import nested_stage, with_fixed_weights
from afa.commands.image_reader import Images, with_validation_folder
from afa.config.formatting import format_changed_settings
from afa.config.settings import Settings
from afa.data.loaders import Batch, TestBatch
from afa.errors import AFAError
from afa.files import claim_folder
from afa.machine.context import Context
from afa.machine.device import choose_device, device_name, keep_freed_memory
from afa.machine.signals import Signals
from afa.method.catalogue import METHODS
from afa.results.journal import Journal
from afa.results.outcomes import format_bytes, format_seconds, format_table
from afa.results.run_folder import RunFolder, find_checkpoint
from afa.training.engine import Step, TrainSums, predict, train_one_epoch
from afa.training.learner import count_parameters
from afa.training.loop import read_result
from afa.training.numerics import FiniteCheck, Precision
from afa.training.stage import Stage
from afa.training.state import StageState, check_inputs, newest_checkpoint, save_best, save_state

AnyBatch = TypeVar("AnyBatch", Batch, TestBatch)
Log = Callable[[str], None]

_BATCHES, _SECONDS = 6, 10.0  # at most, of each kind of work
_STEPS = 3  # at least, also if they take longer: a loss that diverges grows with each step
_PREDICTION_BYTES = 200  # a row of predictions.csv


class StageEstimate(NamedTuple):
    """Cost of one stage of one repeat.

    Attributes:
        epochs: of training; 0 for an evaluation.
        seconds: training, scores after each epoch, checkpoints, scores at the end.
        disk_bytes: size of the files that remain; ``spare_bytes`` more are needed while a checkpoint is replaced.
        memory_bytes: peak memory of this process so far.
        gpu_bytes: peak memory on the GPU; 0 on a CPU.
    """

    title: str
    epochs: int
    images_per_second: float
    seconds: float
    disk_bytes: int
    spare_bytes: int
    memory_bytes: int
    gpu_bytes: int


class Estimate(NamedTuple):
    """Cost of a run.

    Attributes:
        seconds, disk_bytes: of all repeats; ``disk_bytes`` include what is needed temporarily.
        memory_bytes, gpu_bytes: peak values.
        reading: seconds to read the images once.
        stages: those of one repeat.
    """

    seconds: float
    disk_bytes: int
    memory_bytes: int
    gpu_bytes: int
    repeats: int
    reading: float
    stages: tuple[StageEstimate, ...]


def _add_up(stages: Sequence[StageEstimate], repeats: int, reading: float) -> Estimate:
    return Estimate(
        seconds=reading + repeats * sum(stage.seconds for stage in stages),
        disk_bytes=repeats * sum(stage.disk_bytes for stage in stages) + max(stage.spare_bytes for stage in stages),
        memory_bytes=max(stage.memory_bytes for stage in stages),
        gpu_bytes=max(stage.gpu_bytes for stage in stages),
        repeats=repeats,
        reading=reading,
        stages=tuple(stages),
    )


def print_dry_run(settings: Settings) -> Estimate:
    """Check a run, and print what it does and what it costs.

    Raises:
        AFAError: the reason for which the real run would stop at its start, or that the disk is too small.
    """
    journal = Journal(Path(os.devnull))
    settings = replace(settings, run=replace(settings.run, dry_run=False))
    kept = f" except the decoded images in {settings.data.cache_dir}" if settings.data.cache == "disk" else ""
    journal.log(f"dry run: nothing is kept{kept}")
    journal.log("settings that differ from the defaults; settings.log of the run will contain all settings:")
    journal.log(f"{indent(format_changed_settings(settings), '  ')}\n")
    outcome = estimate_run(settings, log=journal.log)
    repeats = f" ({outcome.repeats} repeats)" if outcome.repeats > 1 else ""
    free = shutil.disk_usage(_existing(Path(settings.run.outpath))).free
    header = ["stage", "epochs", "images/s", "time", "disk", "memory", "GPU memory"]
    rows = [
        [stage.title, str(stage.epochs or "-"), f"{stage.images_per_second:.3g}", format_seconds(stage.seconds)]
        + [format_bytes(size) if size else "-" for size in (stage.disk_bytes, stage.memory_bytes, stage.gpu_bytes)]
        for stage in outcome.stages
    ]
    journal.log(
        f"\n{format_table(header, rows)}\n"
        f"estimate for the run{repeats}: {format_seconds(outcome.seconds)}, {format_bytes(outcome.disk_bytes)} "
        f"of disk ({format_bytes(free)} free), {format_bytes(outcome.memory_bytes)} of memory"
    )
    if outcome.disk_bytes > free:
        raise AFAError(
            f"{settings.run.outpath}: {format_bytes(free)} are free, the run needs {format_bytes(outcome.disk_bytes)}; "
            "free some space, or choose another outpath=<folder>"
        )
    journal.log("the dry run passed: the same command without dry_run=true will start")
    return outcome


def estimate_run(settings: Settings, *, log: Log = lambda text: None) -> Estimate:
    """Estimate the cost of a run from a few real steps; ``log`` is called with each result.

    Raises:
        AFAError: the reason for which the real run would stop at its start.
    """
    settings, folder = with_validation_folder(settings), RunFolder(settings.run_path)
    device, note = choose_device(settings.run.gpu_id)
    Precision(settings.compute.precision, device)  # raises before anything is written
    keep_freed_memory(device)  # as a run does
    is_searched = settings.is_searched
    if is_searched:  # the folder's future settings are not known yet
        state = "the steps use the first values of the search; the estimate does not include the search"
        settings = replace(settings, stages=tuple(stage.trials[0] for stage in settings.stages))
    else:
        state = _describe_folder(folder, settings)
    for line in (note, state, f"on {device_name(device)}, torch {torch.__version__}"):
        if line:
            log(line)
    with report_dead_workers(), Signals() as signals:
        journal = Journal(Path(os.devnull), between=signals.raise_if_stopped, quiet=settings.run.quiet)
        context = Context(device, journal, signals)
        if settings.run.mode == "eval":
            return _estimate_evaluation(settings, context, log)
        return _estimate_training(settings, folder, context, log, is_searched=is_searched)


def _describe_folder(folder: RunFolder, settings: Settings) -> str:
    """State of the run's folder; empty if it does not exist. Raises AFAError if the run could not use it."""
    if not folder.path.exists():
        return ""
    if folder.lock.exists():  # a run created it; a dry run creates none
        claim_folder(folder.path).close()
    if settings.run.overwrite:
        return f"{folder.path}: exists; the real run would rename it"
    if check_folder(folder, settings) is not None:
        return f"{folder.path}: already finished; the real run would do nothing, with overwrite=true start again"
    return f"{folder.path}: unfinished; the real run would resume it; the estimate is for the complete run"


def _estimate_training(
    settings: Settings, folder: RunFolder, context: Context, log: Log, *, is_searched: bool
) -> Estimate:
    started = time.monotonic()
    images = Images(settings.data, context)
    reading = time.monotonic() - started
    held_out = images.held_out.folder if images.held_out else None
    log(describe_data(images.test.folder, images.train.folder, held_out, settings.data.validation_fraction))
    if folder.path.exists() and not settings.run.overwrite:
        # The finished stages must have the same images, and the first unfinished one must be able to resume.
        for stage in stages(settings, images, folder):
            if stage.folder.result.exists():
                read_result(stage)
                continue
            checkpoint, _ = newest_checkpoint(stage)
            if checkpoint is not None:
                check_inputs(stage, checkpoint.training.get("inputs", {}))
            break
    estimates: list[StageEstimate] = []
    parent = _existing(Path(settings.run.outpath))
    try:
        scratch = tempfile.TemporaryDirectory(dir=parent, prefix=".afa_dry_run_")  # on the disk of the run
    except OSError as error:
        raise AFAError(f"{parent}: cannot be written: {error.strerror}; choose another outpath=<folder>") from None
    with scratch as path:
        for stage in stages(settings, images, RunFolder(Path(path))):
            if stage.repeat > 1:
                break
            if estimates:
                origin = f"the weights after {estimates[-1].title}"
                stage = replace(stage, start=stage.start._replace(origin=origin))
            estimates.append(_estimate_stage(stage, context, log, is_searched=is_searched))
    return _add_up(estimates, settings.run.repeat, reading)


def _estimate_stage(stage: Stage, context: Context, log: Log, *, is_searched: bool) -> StageEstimate:
    """Take a few steps, score a few images, write both checkpoints, and extrapolate.

    Raises:
        AFAError: the loss diverges; if the alpha ``is_searched``, that is a warning, because the search drops it.
    """
    weights_seconds, weights_disk, weights_gpu = _estimate_fixed_weights(stage, context, log, is_searched=is_searched)
    stage = with_fixed_weights(stage, context, uniform=True)
    stage.folder.checkpoints.mkdir(parents=True)
    learner = stage.build_learner(context)
    if context.device.type == "cuda":
        torch.cuda.empty_cache()  # the memory that an earlier stage has reserved
        torch.cuda.reset_peak_memory_stats(context.device)
    sums = TrainSums(len(learner.objective.attention_names), context.device)
    finite, steps = FiniteCheck(context.device), list[Step]()

    def after_step(batch: Batch, step: Step) -> None:
        steps.append(step)
        finite.check(step.scalars, lambda: f"{stage.title} step {len(steps)}, lr {stage.options.learning_rate:g}")
        context.signals.raise_if_stopped()

    training, scoring = _Stopwatch(context), _Stopwatch(context)
    batches = itertools.chain.from_iterable(map(stage.train_loader(context).epoch, itertools.count()))
    train_one_epoch(learner, training.limit(batches, at_least=_STEPS), sums, after_step)
    finite.flush()
    first_steps = FirstSteps(stage.title, stage.options, steps)
    divergence = first_steps.find_divergence()
    if divergence and not is_searched:
        log(first_steps.describe())
        raise AFAError(divergence)
    finite.check_weights(learner.target.network.state_dict(), stage.title)
    predict(learner.target.evaluator(), scoring.limit(stage.test_loader(stage.splits.monitor, context)))
    started = time.monotonic()
    save_state(stage, learner, StageState(sums, step=len(steps)), context)
    save_best(stage, learner, StageState(sums), context)
    saving = time.monotonic() - started
    sizes = [len(split.folder) for split in (stage.splits.train, stage.splits.monitor, stage.splits.test)]
    train, monitor, test = sizes
    scored = math.ceil(stage.epochs / stage.settings.run.test_every)
    last, best = (path.stat().st_size for path in (stage.folder.last, stage.folder.best))
    train_seconds, score_seconds = training.seconds_per_image, scoring.seconds_per_image
    found = StageEstimate(
        title=stage.title,
        epochs=stage.epochs,
        images_per_second=1 / train_seconds,
        # Both checkpoints are scored on the test images at the end.
        seconds=weights_seconds
        + stage.epochs * (train * train_seconds + saving)
        + (scored * monitor + 2 * test) * score_seconds,
        disk_bytes=weights_disk + 2 * last + best + test * _PREDICTION_BYTES,  # last.pth and previous.pth
        spare_bytes=last,
        memory_bytes=_peak_memory(),
        gpu_bytes=max(weights_gpu, _peak_gpu_memory(context)),
    )
    log(describe_stage(stage, learner, first_steps, found.images_per_second))
    if warning := divergence or first_steps.find_risk():
        log(f"warning: {warning}")
    return found


def _estimate_fixed_weights(stage: Stage, context: Context, log: Log, *, is_searched: bool) -> tuple[float, int, int]:
    """Seconds, bytes on the disk and peak memory on the GPU of the computation of a stage's fixed weights.

    The mean attention over the training images is not included: it takes less time than an epoch.
    """
    nested = nested_stage(stage)
    if nested is None:
        return 0.0, 0, 0
    found = _estimate_stage(nested, context, log, is_searched=is_searched)
    is_delta = METHODS[stage.options.method].fixed_weights == "channel_weights"
    seconds = found.seconds + (estimate_increases(stage, context) if is_delta else 0.0)
    log(f"\n{stage.title}: the computation of its fixed weights takes {format_seconds(seconds)} of its time")
    return seconds, found.disk_bytes, max(found.gpu_bytes, _peak_gpu_memory(context))


def _estimate_evaluation(settings: Settings, context: Context, log: Log) -> Estimate:
    started = time.monotonic()
    path = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath)
    checkpoint, target, loader = prepare_evaluation(settings, path, context)
    reading = time.monotonic() - started
    log(describe_data(loader.folder))
    origin = f"{checkpoint.method} epoch {checkpoint.epoch}" if checkpoint.method else "a bare state dict"
    size = count_parameters(target.parameters())
    log(f"\n{path}: {origin}, {size:,} parameters, {loader.preprocessing.views} views per image")
    scoring = _Stopwatch(context)
    predict(target.evaluator(), scoring.limit(loader))
    found = StageEstimate(
        title="evaluation",
        epochs=0,
        images_per_second=1 / scoring.seconds_per_image,
        seconds=scoring.seconds_per_image * len(loader.folder),
        disk_bytes=0,
        spare_bytes=0,
        memory_bytes=_peak_memory(),
        gpu_bytes=_peak_gpu_memory(context),
    )
    return _add_up([found], 1, reading)


class _Stopwatch:
    """Iterates over a few batches, and measures the time between them."""

    def __init__(self, context: Context) -> None:
        self._device = context.device
        self._laps: list[tuple[float, int]] = []

    def limit(self, batches: Iterable[AnyBatch], *, at_least: int = 1) -> Iterator[AnyBatch]:
        """The first batches, until the measurement is sufficient."""
        started = last = time.monotonic()
        for batch in batches:
            yield batch
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            now = time.monotonic()
            self._laps.append((now - last, len(batch.labels)))
            last = now
            if len(self._laps) == _BATCHES or (len(self._laps) >= at_least and now - started > _SECONDS):
                return

    @property
    def seconds_per_image(self) -> float:
        """Mean without the first batch, which starts workers and fills caches, if there are more."""
        laps = self._laps[1:] or self._laps
        return sum(seconds for seconds, _ in laps) / sum(images for _, images in laps)


def _peak_memory() -> int:
    """Peak memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS reports bytes, Linux KiB


def _peak_gpu_memory(context: Context) -> int:
    return torch.cuda.max_memory_reserved(context.device) if context.device.type == "cuda" else 0


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
