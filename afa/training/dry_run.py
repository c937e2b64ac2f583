"""``dry_run=true``: everything that a run does before it takes hours, by the run's own code; nothing is kept."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from afa.config.hocon import format_settings
from afa.config.layout import BEST, find_checkpoint
from afa.config.settings import Settings
from afa.errors import AFAError
from afa.results.figures import format_bytes, format_seconds, format_table
from afa.results.journal import Journal
from afa.results.records import claim_folder
from afa.training.algorithm import check_folder, first_start, stage_job
from afa.training.checkpoint import load_checkpoint
from afa.training.describe import describe_data, describe_evaluation, describe_stage
from afa.training.device import choose_device
from afa.training.environment import device_name
from afa.training.evaluation import prepare_evaluation
from afa.training.fixed_weights import with_even_weights
from afa.training.measure import StageEstimate, card_memory, measure_stage, peak_memory, time_scoring
from afa.training.precision import Precision
from afa.training.setup import checkpoint_start
from afa.training.signals import Signals
from afa.training.splits import Images
from afa.training.state import check_inputs, newest_checkpoint

Say = Callable[[str], None]


@dataclass(frozen=True)
class Estimate:
    """What a run will take; ``stages`` are those of one repeat, ``reading`` the seconds to read the images, once."""

    stages: tuple[StageEstimate, ...]
    repeats: int
    reading: float

    @property
    def seconds(self) -> float:
        return self.reading + self.repeats * sum(stage.seconds for stage in self.stages)

    @property
    def disk_bytes(self) -> int:
        """What stays, and the most that is needed beside it for a moment."""
        kept = self.repeats * sum(stage.disk_bytes for stage in self.stages)
        return kept + max(stage.spare_bytes for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        return max(stage.memory_bytes for stage in self.stages)

    @property
    def card_bytes(self) -> int:
        return max(stage.card_bytes for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the sums, and those of each stage of one repeat."""
        names = ("seconds", "disk_bytes", "memory_bytes", "card_bytes", "repeats")
        return {name: getattr(self, name) for name in names} | {"stages": [asdict(stage) for stage in self.stages]}

    def table(self) -> str:
        """A row a stage of one repeat."""
        rows = [
            [
                stage.title,
                str(stage.epochs) if stage.epochs else "-",
                f"{stage.images_per_second:.3g}",
                format_seconds(stage.seconds),
                format_bytes(stage.disk_bytes),
                format_bytes(stage.memory_bytes),
                format_bytes(stage.card_bytes) if stage.card_bytes else "-",
            ]
            for stage in self.stages
        ]
        return format_table(["stage", "epochs", "images/s", "time", "disk", "memory", "card"], rows)


def dry_run(settings: Settings) -> Estimate:
    """Check a run, say what it is and what it will take, and keep nothing.

    Raises:
        AFAError: what the real run would meet at its start; also where the disk has not enough room.
    """
    journal = Journal(Path(os.devnull))
    settings = replace(settings, run=replace(settings.run, dry_run=False))
    kept = f" but the decoded images in {settings.data.cache_dir}" if settings.data.cache == "disk" else ""
    journal.say(f"dry run: nothing of it is kept{kept}\n\n{format_settings(settings)}")
    outcome = estimate(settings, say=journal.say)
    repeats = f" ({outcome.repeats} repeats)" if outcome.repeats > 1 else ""
    free = shutil.disk_usage(_existing(Path(settings.run.outpath))).free
    journal.say(
        f"\n{outcome.table()}\n"
        f"estimated for the whole run{repeats}: {format_seconds(outcome.seconds)}, {format_bytes(outcome.disk_bytes)} "
        f"of disk ({format_bytes(free)} free), {format_bytes(outcome.memory_bytes)} of memory"
    )
    if outcome.disk_bytes > free:
        raise AFAError(
            f"{settings.run.outpath}: {format_bytes(free)} are free, the run needs {format_bytes(outcome.disk_bytes)}; "
            "make room, or choose another outpath=<folder>"
        )
    journal.say("the dry run passed: the same command without dry_run=true will start")
    return outcome


def estimate(settings: Settings, *, say: Say = lambda text: None) -> Estimate:
    """What a run will take, from a few of its real steps; ``say`` gets what is found on the way.

    Raises:
        AFAError: what the real run would meet at its start.
    """
    folder = Path(settings.run.outpath) / settings.run_name
    device, note = choose_device(settings.run.gpu_id)
    Precision(settings.compute.precision, device)  # refused before anything is written
    if any(stage.search_alpha for stage in settings.stages):  # what the folder should hold is not known yet
        place = "the first value of search.alpha is tried; the search before the run is not in the estimate"
        stages = tuple(replace(one, alpha=(*one.search_alpha, one.alpha)[0]) for one in settings.stages)
        settings = replace(settings, stages=stages)
    else:
        place = _check_place(folder, settings)
    for line in (note, place, f"on {device_name(device)}, torch {torch.__version__}"):
        if line:
            say(line)
    with Signals() as signals:
        journal = Journal(Path(os.devnull), between=signals.raise_if_ending, quiet=settings.run.quiet)
        if settings.run.mode == "eval":
            return _estimate_evaluation(settings, device, journal, say)
        return _estimate_training(settings, folder, device, journal, signals, say)


def _estimate_training(
    settings: Settings, folder: Path, device: torch.device, journal: Journal, signals: Signals, say: Say
) -> Estimate:
    begun = time.monotonic()
    images = Images(settings.data, journal)
    reading = time.monotonic() - begun
    say(describe_data(images.train.folder, images.test.folder, settings.data.validation_fraction))
    if folder.exists() and not settings.run.overwrite:
        _check_begun(settings, images, folder, device)
    start, stages = first_start(settings, images, 1), []
    with _scratch_folder(Path(settings.run.outpath)) as scratch:
        for index in range(len(settings.stages)):
            job = with_even_weights(
                stage_job(settings, images, Path(scratch), device, start=start, repeat=1, index=index)
            )
            if job.fixed_weights:
                say(f"{job.title}: time to make its fixed weights, if it has no file of them, is not in the estimate")
            stage, run, step = measure_stage(job, journal, signals)
            say(describe_stage(job, run.learner, step, stage))
            stages.append(stage)
            # As in the run, the next stage reads the network from its file.
            path = job.folder / BEST
            start = checkpoint_start(load_checkpoint(path), path, settings.backbone, images.classes)
            start = start._replace(origin=f"the weights after {job.title}")
    return Estimate(tuple(stages), settings.run.repeat, reading)


def _estimate_evaluation(settings: Settings, device: torch.device, journal: Journal, say: Say) -> Estimate:
    begun = time.monotonic()
    path = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath)
    evaluation = prepare_evaluation(settings, path, device=device, journal=journal)
    reading = time.monotonic() - begun
    say(describe_data(None, evaluation.loader.folder, 0.0))
    say(describe_evaluation(path, evaluation))
    scoring = time_scoring(evaluation.target, evaluation.loader, device)
    stage = StageEstimate(
        title="evaluation",
        epochs=0,
        images_per_second=1 / scoring,
        seconds=scoring * len(evaluation.loader.folder),
        disk_bytes=0,
        spare_bytes=0,
        memory_bytes=peak_memory(),
        card_bytes=card_memory(device),
    )
    return Estimate((stage,), 1, reading)


def _check_place(folder: Path, settings: Settings) -> str:
    """Whether the run may be in its folder, and a line to say so where it is there already."""
    if not folder.exists():
        return ""
    if (folder / ".lock").exists():  # made by a run; the dry run makes none
        claim_folder(folder).close()
    if settings.run.overwrite:
        return f"{folder}: there already; the real run would move it aside"
    finished = check_folder(folder, settings)
    if finished is not None:
        return f"{folder}: finished already; the real run would do nothing, with overwrite=true all again"
    return f"{folder}: begun already; the real run would go on with it, the estimate is for the whole of it"


def _check_begun(settings: Settings, images: Images, folder: Path, device: torch.device) -> None:
    """Raises CheckpointError where the first stage that is not finished could not go on."""
    for repeat in range(1, settings.run.repeat + 1):
        start = first_start(settings, images, repeat)
        for index in range(len(settings.stages)):
            job = stage_job(settings, images, folder, device, start=start, repeat=repeat, index=index)
            if not (job.folder / "stage.json").exists():
                checkpoint, _ = newest_checkpoint(job)
                if checkpoint is not None:
                    check_inputs(job, checkpoint.training.get("inputs", {}))
                return
            path = job.folder / BEST
            start = checkpoint_start(load_checkpoint(path), path, settings.backbone, images.classes)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _scratch_folder(outpath: Path) -> tempfile.TemporaryDirectory:
    """A folder on the run's own disk that is gone at the end.

    Raises:
        AFAError: nothing can be written there.
    """
    place = _existing(outpath)
    try:
        return tempfile.TemporaryDirectory(dir=place, prefix=".afa_dry_run_")
    except OSError as error:
        raise AFAError(f"{place}: cannot be written: {error.strerror}; choose another outpath=<folder>") from None
