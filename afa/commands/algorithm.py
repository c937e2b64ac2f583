"""Algorithm 1: the stages of each repeat in order, in the folder of the run."""

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from afa.commands.evaluation import evaluate_checkpoint
from afa.commands.finished_run import read_finished_run
from afa.commands.fixed_weights import with_fixed_weights
from afa.commands.image_reader import (
    Decoded,
    Images,
    changed_data,
    describe_images,
    digest_files,
    with_validation_folder,
)
from afa.config.formatting import format_settings
from afa.config.hocon import load_settings
from afa.config.settings import Settings, differences
from afa.errors import AFAError
from afa.files import claim_folder, modified, move_aside, write_json, write_text
from afa.machine.context import Context
from afa.machine.device import choose_device, describe_environment, device_name, keep_freed_memory
from afa.machine.launch import read_launch, report_errors_once
from afa.machine.signals import Signals
from afa.results.journal import Journal
from afa.results.outcomes import StageResult, balanced_spread, results_table, spread
from afa.results.run_folder import RunFolder, find_checkpoint
from afa.training.checkpoint import load_checkpoint
from afa.training.learner import Start, checkpoint_start, source_start
from afa.training.loop import train_stage
from afa.training.numerics import Precision
from afa.training.parallel import join_processes
from afa.training.stage import Stage

WORKER_DIED = (
    "a process that decodes images died: the memory or /dev/shm is too small; the same command resumes from the last "
    "checkpoint; set num_workers=0, or in Docker enlarge /dev/shm with --shm-size=1g"
)


def execute(settings: Settings, command: str = "", *, decoded: Decoded | None = None) -> dict[str, Any]:
    """Train or evaluate in ``<outpath>/<run name>/``, and return the content of ``result.json``.

    A finished run is not repeated, an unfinished one is resumed.

    Args:
        command: what the user typed; stored with the result.
        decoded: images that several runs share.

    Raises:
        AFAError: see its subclasses; also if the folder contains a run with other settings.
    """
    with report_errors_once():
        settings = with_validation_folder(settings)
    with open_run(settings) as opened:
        folder, context = opened.folder, opened.context
        if opened.finished is not None:
            context.journal.log(
                f"{folder.path}: already finished; overwrite=true runs it again\n{opened.finished['table']}"
            )
            return opened.finished
        processes = f" in {context.processes.size} processes" if context.processes.size > 1 else ""
        where = f"{device_name(context.device)}{processes}, torch {torch.__version__}"
        context.journal.log(f"{settings.run_name}, on {where}; writing to {folder.path}")
        if settings.run.mode == "eval":
            path = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath)
            outcome = evaluate_checkpoint(settings, path, folder=folder.as_stage, context=context)
        else:
            # The first checkpoint is written after all images have been checked.
            are_checked = any(folder.path.rglob("last.pth"))
            images = Images(settings.data, context, decoded, are_checked=are_checked)
            labels = " then ".join(stage.label for stage in settings.stages)
            splits = {"training": images.train, "held-out": images.held_out, "test": images.test}
            counts = [f"{len(split.folder)} {name} images" for name, split in splits.items() if split]
            context.journal.log(f"{labels}: {', '.join(counts)}, {len(images.classes)} classes")
            repeats: list[list[StageResult]] = [[] for _ in range(settings.run.repeat)]
            for stage in stages(settings, images, folder):
                if stage.options.max_iter < stage.epochs * stage.steps / 2 and not stage.options.epochs:
                    context.journal.log(
                        f"{stage.title}: max_iter = {stage.options.max_iter} steps of batch_size = "
                        f"{settings.data.batch_size} images are "
                        f"{stage.epochs} epochs, as the data has fewer images; epochs=<n> sets them"
                    )
                repeats[stage.repeat - 1].append(train_stage(with_fixed_weights(stage, context), context))
            outcome = _summarise(settings, images, repeats)
        environment = describe_environment(context.device, command)
        result = {"run": settings.run_name, "environment": environment, "files": digest_files(settings), **outcome}
        context.processes.on_main(write_json, folder.result, result)
        context.journal.log(f"{result['table']}\nwritten to {folder.path}")
        return result


def train_repeat(settings: Settings, repeat: int) -> None:
    """Train the stages of one repeat, counted from 1, in a process of its own; see ``commands/jobs.py``.

    Raises:
        AFAError: see its subclasses.
    """
    with open_run(settings, repeat) as opened:
        images = Images(settings.data, opened.context)
        for stage in stages(settings, images, opened.folder, only=repeat):
            train_stage(with_fixed_weights(stage, opened.context), opened.context)


@dataclass(frozen=True)
class OpenRun:
    """A run whose folder is locked; ``finished`` is its result if it is finished."""

    folder: RunFolder
    context: Context
    finished: dict[str, Any] | None


@contextlib.contextmanager
def open_run(settings: Settings, repeat: int | None = None) -> Generator[OpenRun]:
    """Choose the device, connect the processes, lock the run's folder, and handle signals until the exit.

    With ``repeat``, only the folder of that repeat is locked, because other processes train the others.

    Raises:
        AFAError: see its subclasses.
    """
    folder, launch = RunFolder(settings.run_path), read_launch()
    with report_errors_once():
        device, note = choose_device(settings.run.gpu_id, launch)
        Precision(settings.compute.precision, device)  # raises before anything is written
    keep_freed_memory(device)
    processes = join_processes(launch, device, sync_bn=settings.run.sync_bn)
    with processes.report_errors_once(), contextlib.ExitStack() as stack:
        moved = None
        if settings.run.overwrite and folder.path.exists():
            moved = processes.on_main(move_aside, folder.path)
        is_finished = folder.result.exists()
        if not is_finished:  # a finished run is only read, perhaps from a disk that cannot be written
            lock = processes.on_main(claim_folder, folder.path / f"repeat_{repeat}" if repeat else folder.path)
            if lock is not None:
                stack.enter_context(lock)
        signals = stack.enter_context(Signals())
        with processes.main_first():
            finished = start_folder(folder, settings)
        log = folder.experiment_log if processes.is_main and not is_finished else Path(os.devnull)
        quiet = settings.run.quiet or not processes.is_main
        journal = Journal(log, between=signals.raise_if_stopped, quiet=quiet, is_shared=repeat is not None)
        for line in (f"the previous run is now {moved}" if moved else "", note):
            if line:
                journal.log(line)
        with report_dead_workers():
            yield OpenRun(folder, Context(device, journal, signals, processes), finished)


@contextlib.contextmanager
def report_dead_workers() -> Generator[None]:
    """Raise AFAError for the end of a worker. torch raises it at any point of a step: the state is not consistent."""
    try:
        yield
    except BrokenPipeError:  # of the terminal's pipe, not of a worker's
        raise
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise AFAError(WORKER_DIED) from None


def start_folder(folder: RunFolder, settings: Settings) -> dict[str, Any] | None:
    """As ``check_folder``, and write ``settings.log`` for a new run."""
    finished = check_folder(folder, settings)
    if not folder.settings_log.exists():
        # The saved config resumes this run; it must not move the run aside.
        saved = replace(settings, run=replace(settings.run, overwrite=False, dry_run=False))
        write_text(folder.settings_log, format_settings(saved))
    return finished


def check_folder(folder: RunFolder, settings: Settings) -> dict[str, Any] | None:
    """Return the result of a finished run in ``folder``, None for a new or unfinished run. Writes nothing.

    Raises:
        AFAError: the folder contains no run, a run with other settings, or a finished run with other data.
    """
    if not folder.settings_log.exists():
        ours = (folder.lock.name, f"{folder.settings_log.name}.tmp")
        other = [item.name for item in folder.path.iterdir() if item.name not in ours]
        if other:
            raise AFAError(f"{folder.path}: contains files ({other[0]}) but no run; choose another exp_id=<name>")
        return None
    finished, kind = None, "settings"
    different = differences(load_settings(folder.settings_log), settings)
    if not different and folder.result.exists():
        found = read_finished_run(folder.path)
        repeats = [] if settings.run.mode == "eval" else [len(settings.stages)] * settings.run.repeat
        if list(map(len, found.repeats)) != repeats:
            raise AFAError(modified(folder.result))
        finished = found.result
        different, kind = changed_data(settings, finished), "data"
    if different:
        raise AFAError(
            f"{folder.path}: made with other {kind} ({'; '.join(different)}); overwrite=true renames the "
            "folder and starts again, exp_id=<name> uses another folder"
        )
    if finished is not None:
        return finished
    if not settings.run.resume:
        raise AFAError(
            f"{folder.path}: contains an unfinished run, and resume = false; overwrite=true renames it and starts again"
        )
    return None


def stages(settings: Settings, images: Images, folder: RunFolder, only: int | None = None) -> Iterator[Stage]:
    """Yield every stage of every repeat, or of the repeat ``only``, in order.

    Stage two starts from a checkpoint of stage one: a stage must be trained before the next one is requested.
    """
    repeats, count = settings.run.repeat, len(settings.stages)
    for repeat in [only] if only else range(1, repeats + 1):
        start = first_start(settings, images, repeat)
        for index, options in enumerate(settings.stages):
            stage = Stage(
                settings=settings,
                index=index,
                repeat=repeat,
                splits=images.splits(repeat),
                start=start,
                folder=folder.stage_folder(repeat=repeat, repeats=repeats, stage=index + 1, stages=count),
                title=f"{options.label} (repeat {repeat}/{repeats})" if repeats > 1 else options.label,
                source_from=source_start(settings.backbone) if options.keep_source else None,
            )
            yield stage
            if index + 1 < count:
                path = stage.folder.best_or_last(settings.stages[index + 1].stage_start)
                start = checkpoint_start(load_checkpoint(path), path, settings.backbone, images.classes)


def first_start(settings: Settings, images: Images, repeat: int) -> Start:
    """The source's weights, or the checkpoint that the config names."""
    if not settings.run.pre_trained_path:
        return source_start(settings.backbone)
    which = settings.stages[0].stage_start
    path = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath, repeat, which=which)
    return checkpoint_start(load_checkpoint(path), path, settings.backbone, images.classes)


def _summarise(settings: Settings, images: Images, repeats: list[list[StageResult]]) -> dict[str, Any]:
    """The entries of ``result.json`` that describe the training of all repeats."""
    final = [results[-1] for results in repeats]
    scores = {"best": [result.best for result in final], "last": [result.last for result in final]}
    balanced = {name: balanced_spread(of_seeds) for name, of_seeds in scores.items()}
    return {
        "selected_on": final[0].selected_on,
        **{f"{name}_test_top1": spread([s.test_top1 for s in of_seeds])._asdict() for name, of_seeds in scores.items()},
        **{f"{name}_test_balanced": value and value._asdict() for name, value in balanced.items()},
        "repeats": [[result.to_dict() for result in results] for results in repeats],
        "data": {
            "classes": len(images.classes),
            "train": describe_images(images.train.folder),
            "test": describe_images(images.test.folder),
            **({"held_out": describe_images(images.held_out.folder)} if images.held_out else {}),
            "held_out_fraction": settings.data.validation_fraction,
            "test_views": images.preprocessing.views,
        },
        "table": results_table(repeats),
    }
