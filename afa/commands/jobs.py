"""``jobs``: the repeats of a run, the runs of a search and those of a grid, several at a time on this machine.

Each run is trained in a process of its own (``machine/pool.py``) with its share of the threads, or with a GPU. Its
result is that of ``jobs = 1`` with the same number of threads.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from afa.commands.algorithm import start_folder, train_repeat
from afa.commands.dry_run import estimate_run
from afa.commands.image_reader import with_validation_folder
from afa.config.settings import Settings
from afa.data.images import available_memory
from afa.errors import AFAError, ConfigError
from afa.files import claim_folder, move_aside
from afa.machine.device import format_threads
from afa.machine.launch import require_single_process
from afa.machine.pool import Pool, ProcessPool
from afa.results.journal import say
from afa.results.outcomes import format_bytes
from afa.results.run_folder import RunFolder


def open_pool(runs: Sequence[Settings]) -> Pool:
    """The pool for the repeats and searches of ``runs``, which have the same ``jobs``.

    ``jobs = auto`` measures the memory of one run of each network, of the last one in ``runs``.

    Raises:
        ConfigError: torchrun started several processes, or ``gpu_id`` names a GPU.
    """
    jobs, count = runs[0].run.jobs if runs else "1", sum(map(_count, runs))
    if jobs == "1" or count < 2:
        return Pool()
    require_single_process("jobs > 1")
    options = runs[0].run
    gpus = _gpus() if options.gpu_id != "cpu" else []
    if gpus and options.gpu_id != "0":
        raise ConfigError("gpu_id: jobs uses a GPU for each run; CUDA_VISIBLE_DEVICES selects the GPUs")
    size = min(count, len(gpus) or count, int(jobs) if jobs != "auto" else len(gpus) or _cores())
    if jobs == "auto" and not gpus and size > 1:
        size = min(size, _fit_in_memory(list({run.backbone: run for run in runs}.values())))
    if size < 2:
        return Pool()
    threads = max(torch.get_num_threads() // size, 1)
    if not options.quiet:
        each = "one GPU" if gpus else format_threads(threads)
        say(f"{size} runs at a time, each with {each}; their messages are in experiment.log of each run")
    return ProcessPool(gpus[:size] or [""] * size, threads, quiet=options.quiet)


def _count(settings: Settings) -> int:
    """How many runs of the repeats or of the search can be trained at the same time."""
    trials = max((len(stage.trials) for stage in settings.stages), default=1) * settings.run.search_repeat
    return max(settings.run.repeat, trials if settings.is_searched else 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """The visible GPUs, as in CUDA_VISIBLE_DEVICES. Does not use any of them."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else list(map(str, range(count))))[:count]


def _fit_in_memory(runs: Sequence[Settings]) -> int:
    """How many of the runs fit in the free memory at a time, at least 1, measured by a few steps of each."""
    free, quiet = available_memory(), runs[0].run.quiet
    with ProcessPool([""], torch.get_num_threads(), quiet=quiet) as pool:
        try:
            estimates = pool.map("measuring", lambda run: pool.call("dry run", estimate_run, run), runs)
        except AFAError:  # reported when the run starts
            return 1
    peak = max(estimate.memory_bytes for estimate in estimates)
    if not quiet:
        say(f"jobs = auto: a run needs {format_bytes(peak)} of memory, {format_bytes(free or 0)} are free")
    return max((free or 0) // peak, 1)


def move_old(settings: Settings, *folders: Path) -> Settings:
    """With ``overwrite``, rename the folders of an earlier run; the settings without it."""
    if settings.run.overwrite:
        for path in folders:
            if path.exists():
                moved = move_aside(path)
                if not settings.run.quiet:
                    say(f"the previous folder is now {moved}")
    return replace(settings, run=replace(settings.run, overwrite=False))


def train_repeats(settings: Settings, pool: Pool) -> Settings:
    """Train the repeats of a run, several at a time, in the folders in which ``execute`` finds their results.

    Returns:
        the settings for ``execute``. A pool of one process trains nothing, ``execute`` does.

    Raises:
        AFAError: see its subclasses; of the first repeat that failed, after all have ended.
        StoppedError: a signal stopped them; their states are saved.
    """
    if pool.size == 1 or settings.run.repeat == 1:
        return settings
    folder = RunFolder(settings.run_path)
    settings = move_old(with_validation_folder(settings), folder.path)
    if not folder.result.exists():
        with claim_folder(folder.path):
            start_folder(folder, settings)

            def train(repeat: int) -> None:
                pool.call(f"repeat {repeat}", train_repeat, settings, repeat)

            pool.map("repeats", train, range(1, settings.run.repeat + 1))
    return settings
