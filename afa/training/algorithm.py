"""Algorithm 1: the stages in order, for each repeat. The only module that sees everything."""

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from afa.config.hocon import format_settings, load_settings
from afa.config.launch import read_launch, said_once
from afa.config.layout import BEST, RESULT, SETTINGS, find_checkpoint, stage_folder
from afa.config.settings import Settings, differences
from afa.errors import AFAError
from afa.results.figures import StageResult, results_table, spread
from afa.results.journal import Journal
from afa.results.records import claim_folder, move_aside, read_json, write_json, write_text
from afa.training.checkpoint import load_checkpoint
from afa.training.device import choose_device, keep_freed_memory
from afa.training.distributed import ALONE, World, join
from afa.training.environment import device_name, environment
from afa.training.evaluation import evaluate_checkpoint
from afa.training.fixed_weights import with_fixed_weights
from afa.training.job import StageJob
from afa.training.precision import Precision
from afa.training.setup import Start, checkpoint_start, source_start
from afa.training.signals import Signals
from afa.training.splits import Images
from afa.training.stage import run_stage


def run(settings: Settings, command: str = "") -> dict[str, Any]:
    """Do what the settings say, in ``<outpath>/<run name>/``, and return what ``result.json`` holds.

    A run that is finished is not done again, one that was cut short goes on. ``command`` is
    written down with the result: what the user typed, to be typed again.

    Raises:
        AFAError: see its subclasses; also for a folder that holds a run made with other settings.
    """
    folder = Path(settings.run.outpath) / settings.run_name
    launch = read_launch()
    with said_once():
        device, note = choose_device(settings.run.gpu_id, launch)
        Precision(settings.compute.precision, device)  # refused before anything is written
    keep_freed_memory(device)
    world = join(launch, device, sync_bn=settings.run.sync_bn)
    with world.failing_once():
        moved = world.lead(_make_room, folder, settings)
        with world.lead(claim_folder, folder) or nullcontext(), Signals() as signals:
            with world.leader_first():
                finished = _open(folder, settings)
            journal = _journal(folder, settings, signals, world)
            for line in (f"the run that was there is now {moved}" if moved else "", note):
                if line:
                    journal.say(line)
            if finished is not None:
                journal.say(f"{folder}: finished already; overwrite=true does it again\n{finished['table']}")
                return finished
            several = f" in {world.size} processes" if world.size > 1 else ""
            where = f"{device_name(device)}{several}, torch {torch.__version__}"
            journal.say(f"{settings.run_name}, on {where}; writing to {folder}")
            if settings.run.mode == "eval":
                outcome = _evaluate(settings, folder, device, journal, world)
            else:
                outcome = _train(settings, folder, device, journal, signals, world)
            result = {"run": settings.run_name, "environment": environment(device, command), **outcome}
            world.lead(write_json, folder / RESULT, result)
            journal.say(f"{result['table']}\nwritten to {folder}")
            return result


def _make_room(folder: Path, settings: Settings) -> Path | None:
    """With ``overwrite``, where the run that was there is now."""
    return move_aside(folder) if settings.run.overwrite and folder.exists() else None


def _journal(folder: Path, settings: Settings, signals: Signals, world: World) -> Journal:
    """The run's own; of several processes only the leader speaks."""
    path = folder / "experiment.log" if world.leads else Path(os.devnull)
    return Journal(path, between=signals.raise_if_ending, quiet=settings.run.quiet or not world.leads)


def _open(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """As ``check_folder``; a new run's settings are written down."""
    finished = check_folder(folder, settings)
    if not (folder / SETTINGS).exists():
        # Run again, the saved config is to go on with this run, not to move it aside.
        settings = replace(settings, run=replace(settings.run, overwrite=False, dry_run=False))
        write_text(folder / SETTINGS, format_settings(settings))
    return finished


def check_folder(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """The result of a finished run in ``folder``; None for one that is new or to go on. Nothing is written.

    Raises:
        AFAError: it holds something else, or a run that was made with other settings.
    """
    path = folder / SETTINGS
    if not path.exists():
        strange = [item.name for item in folder.iterdir() if item.name not in (".lock", f"{SETTINGS}.tmp")]
        if strange:
            raise AFAError(f"{folder}: holds files ({strange[0]}) but no run; choose another exp_id=<name>")
        return None
    different = differences(load_settings(path), settings)
    if different:
        raise AFAError(
            f"{folder}: made with other settings ({'; '.join(different)}); "
            "overwrite=true starts anew and keeps the old folder beside, exp_id=<name> makes another"
        )
    if (folder / RESULT).exists():
        return read_json(folder / RESULT, lambda values: {**values, "table": str(values["table"])})
    if not settings.run.resume:
        raise AFAError(f"{folder}: holds an unfinished run and resume = false; overwrite=true starts anew")
    return None


def _train(
    settings: Settings, folder: Path, device: torch.device, journal: Journal, signals: Signals, world: World
) -> dict[str, Any]:
    """All repeats and stages."""
    images = Images(settings.data, journal, world.local_size)
    labels = " then ".join(stage.label for stage in settings.stages)
    journal.say(
        f"{labels}: {len(images.train.folder)} training images, {len(images.test.folder)} test images, "
        f"{len(images.classes)} classes"
    )
    repeats = []
    for repeat in range(1, settings.run.repeat + 1):
        start = first_start(settings, images, repeat)
        results: list[StageResult] = []
        for index in range(len(settings.stages)):
            job = stage_job(settings, images, folder, device, start=start, repeat=repeat, index=index, world=world)
            results.append(run_stage(with_fixed_weights(job, journal, signals), journal, signals))
            path = job.folder / BEST
            start = checkpoint_start(load_checkpoint(path), path, settings.backbone, images.classes)
        repeats.append(results)
    final = [results[-1] for results in repeats]
    return {
        "selected_on": final[0].selected_on,
        "best_test_top1": spread([result.best.test_top1 for result in final])._asdict(),
        "last_test_top1": spread([result.last.test_top1 for result in final])._asdict(),
        "repeats": [[result.to_dict() for result in results] for results in repeats],
        "data": {
            "classes": len(images.classes),
            "train": {"images": len(images.train.folder), "sha256": images.train.folder.fingerprint()},
            "test": {"images": len(images.test.folder), "sha256": images.test.folder.fingerprint()},
            "held_out_fraction": settings.data.validation_fraction,
            "test_views": images.preprocessing.views,
        },
        "table": results_table(repeats),
    }


def first_start(settings: Settings, images: Images, repeat: int) -> Start:
    """The source's weights, or the checkpoint that the config names."""
    if not settings.run.pre_trained_path:
        return source_start(settings.backbone)
    path = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath, repeat)
    return checkpoint_start(load_checkpoint(path), path, settings.backbone, images.classes)


def stage_job(
    settings: Settings,
    images: Images,
    folder: Path,
    device: torch.device,
    *,
    start: Start,
    repeat: int,
    index: int,
    world: World = ALONE,
) -> StageJob:
    """The job of the stage at ``index`` of ``repeat``."""
    stage, repeats, stages = settings.stages[index], settings.run.repeat, len(settings.stages)
    title = stage.label
    return StageJob(
        stage=stage,
        backbone=settings.backbone,
        compute=settings.compute,
        preprocessing=images.preprocessing,
        splits=images.splits(repeat),
        start=start,
        seed=stage.seed + repeat - 1,
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        print_freq=settings.run.print_freq,
        test_every=settings.run.test_every,
        checkpoint_every=settings.run.checkpoint_every,
        device=device,
        folder=stage_folder(folder, repeat=repeat, repeats=repeats, stage=index + 1, stages=stages),
        outpath=settings.run.outpath,
        repeat=repeat,
        title=f"{title} (repeat {repeat}/{repeats})" if repeats > 1 else title,
        settings_text=format_settings(settings),
        source_from=source_start(settings.backbone) if stage.keep_source else None,
        sync_bn=settings.run.sync_bn,
        world=world,
    )


def _evaluate(settings: Settings, folder: Path, device: torch.device, journal: Journal, world: World) -> dict[str, Any]:
    """Score the checkpoint that ``pre_trained_path`` names on the test images."""
    path = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath)
    return evaluate_checkpoint(settings, path, folder=folder, device=device, journal=journal, world=world)
