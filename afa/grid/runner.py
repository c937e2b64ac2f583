"""Commands of a config with a ``grid { }`` block: trains the remaining runs, lists them, or writes their tables."""

import threading
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

from afa.commands.dry_run import Estimate, estimate_run
from afa.commands.jobs import open_pool
from afa.commands.search import choose_values
from afa.config.grid import Cell, Grid
from afa.config.schema import check_dataset
from afa.config.settings import Settings
from afa.entry import run
from afa.errors import AFAError, BusyError, ConfigError, one_line, resource_error
from afa.grid.run_states import State, read_run_and_data, with_values_of
from afa.grid.tables import write_tables
from afa.machine.pool import Pool
from afa.method.catalogue import METHODS
from afa.results.journal import say
from afa.results.outcomes import format_bytes, format_seconds

_STEPS_OF_AN_EPOCH = 100
"""Only for the comparison of a run whose length is set in epochs with one whose length is set in steps."""


def do_grid(grid: Grid) -> int:
    """Do what the grid's options ask for; returns the exit status, 1 if a run failed.

    Raises:
        ConfigError: none of the data sets exists.
        StoppedError: a signal arrived; the current run has saved its progress.
    """
    if grid.options.mode == "report":
        for text in write_tables(grid):
            _print(text)
        return 0
    if grid.grid.kind == "parameters":
        _print("there is nothing to train; mode=report counts the parameters")
        return 0
    cells = shard(grid.cells, grid.options.shard)
    if grid.options.dry_run:
        list_runs(cells)
        return 0
    status = train(cells)
    if grid.grid.kind == "does_it_help":
        for text in write_tables(grid):
            _print(text)
    return status


def shard(cells: Sequence[Cell], text: str) -> list[Cell]:
    """Shard k of n, ``text`` being ``k/n``. The n shards are disjoint and together contain every cell.

    The most expensive cells are assigned first, each to the shard with the least work so far, by a cost that follows
    from the config alone, so that all processes compute the same shards. Seeds that share a search stay together. The
    seeds of one group follow each other, because the cost of a network is not known.
    """
    k, n = map(int, text.split("/"))
    groups = list(dict.fromkeys(cell.group for cell in cells))
    units: dict[Hashable, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: groups.index(cell.group)):
        units.setdefault(cell.group if cell.first_seed.is_searched else cell.folder, []).append(cell)
    work, chosen = [0.0] * n, set()
    for unit in sorted(units.values(), key=_cost, reverse=True):
        least = work.index(min(work))
        work[least] += _cost(unit)
        if least == k - 1:
            chosen |= {cell.folder for cell in unit}
    return [cell for cell in cells if cell.folder in chosen]


def _cost(unit: Sequence[Cell]) -> float:
    """Relative cost of training cells of one group: forward passes of all steps, and of their search."""
    settings, runs, total = unit[0].first_seed, len(unit), 0.0
    for stage in settings.stages:
        method = METHODS[stage.method]
        passes = (3 if method.trains_backbone else 1) + method.reads_maps  # backward counts two, the source one
        trials = max(len(stage.search_alpha), 1) * max(len(stage.search_lr), 1) * settings.run.search_repeat
        trained = runs + (trials if stage.search_alpha or stage.search_lr else 0)
        total += trained * passes * (stage.epochs * _STEPS_OF_AN_EPOCH or stage.max_iter)
    return total * settings.data.batch_size * settings.data.image_size**2


def train(cells: Sequence[Cell]) -> int:
    """Train every run that is not done; returns the exit status, 1 if a run failed or was skipped.

    A run that fails is reported in one line, immediately and again at the end, and the next run starts. Runs whose
    data set is missing are skipped. ``quiet=true`` prints only failures.
    """
    quiet = all(cell.first_seed.run.quiet for cell in cells)
    runnable, missing = [], {}
    for cell in cells:
        problems = check_dataset(cell.first_seed.data.root, cell.first_seed.data.dataset)
        if problems:
            missing[cell.dataset] = f"{problems[0].key}: {problems[0].message}"
        else:
            runnable.append(cell)
    if cells and not runnable:
        raise ConfigError(list(dict.fromkeys(missing.values())))
    failures = [f"{dataset}: its runs are skipped; {line}" for dataset, line in missing.items()]
    for line in failures:
        _print(line)
    training = _Training(runnable, quiet=quiet)
    cheapest_first = sorted(runnable, key=lambda cell: _cost([cell]))
    with open_pool([cell.first_seed for cell in cheapest_first]) as pool:
        failures += filter(None, pool.map("runs", partial(training.train, pool), enumerate(runnable, 1)))
    for line in failures:
        _print(line)
    _print(f"{len(runnable)} runs; failed or skipped: {len(failures)}", quiet=not failures and quiet)
    return 1 if failures or (training.busy and training.busy == len(runnable)) else 0


class _Training:
    """The training of the runs of a grid; ``train`` is called for several of them at a time.

    ``busy`` is the number of runs that other processes are training.
    """

    def __init__(self, runs: Sequence[Cell], *, quiet: bool) -> None:
        self._count, self._quiet, self.busy = len(runs), quiet, 0
        self._digests: dict[Any, Any] = {}
        self._chosen: dict[Hashable, Settings] = {}
        self._searching = {cell.group: threading.Lock() for cell in runs}

    def train(self, pool: Pool, numbered: tuple[int, Cell]) -> str:
        """Train a run, unless it is done; return why it failed, empty if it did not."""
        number, cell = numbered
        title, quiet, found = f"[{number}/{self._count}] {cell}", self._quiet, read_run_and_data(cell, self._digests)
        if found.state is State.DONE:
            _print(f"{title}: already done, last top-1 {found.stages[-1].last.test_top1:.2f} %", quiet=quiet)
            if found.settings and cell.first_seed.is_searched:  # no search: its runs may be on another machine
                self._chosen[cell.group] = with_values_of(
                    cell.first_seed.after_search(cell.first_seed.stages), found.settings
                )
            return ""
        if pool.size == 1:
            _print(title, quiet=quiet)
        try:
            settings = cell.run_settings(self._choose_values(cell, pool))
            result = pool.call(f"{cell.method} seed {cell.seed}", run, settings)
        except BusyError as error:
            self.busy += 1
            _print(f"{cell}: skipped, because another process is training it ({error})", quiet=quiet)
        except (AFAError, OSError, RuntimeError) as error:  # a full disk, a GPU without memory: the next run may fit
            reason = "; ".join(error.lines) if isinstance(error, AFAError) else resource_error(error) or one_line(error)
            _print(f"{title}: {reason}")
            return f"{title}: {reason}"
        else:
            if pool.size > 1:
                _print(f"{title}: last top-1 {result['last_test_top1']['mean']:.2f} %", quiet=quiet)
        return ""

    def _choose_values(self, cell: Cell, pool: Pool) -> Settings | None:
        """The settings of the first seed after the search, which its group shares; None if there is none."""
        if not cell.first_seed.is_searched:
            return None
        with self._searching[cell.group]:
            if cell.group not in self._chosen:
                self._chosen[cell.group] = choose_values(cell.first_seed, cell.search_folder, pool)
            return self._chosen[cell.group]


def list_runs(cells: Sequence[Cell]) -> None:
    """Print a line for each run: its state and, unless it is done, an estimate of its time and disk space.

    The seeds of a group share one estimate, which is made from a few real steps. Runs that cannot be estimated for
    the same reason, for example because their data set is missing, share one line.
    """
    estimates: dict[Hashable, Estimate | str] = {}
    digests: dict[Any, Any] = {}
    unknown: dict[tuple[State, str], list[Cell]] = {}
    seconds, disk_bytes = 0.0, 0
    for cell in cells:
        state = read_run_and_data(cell, digests).state
        if state is State.DONE:
            _print(f"{state:8} {cell}")
            continue
        is_first = cell.group not in estimates
        if is_first:
            try:
                estimates[cell.group] = estimate_run(cell.run_settings())
            except (AFAError, RuntimeError) as error:
                estimates[cell.group] = error.lines[0] if isinstance(error, AFAError) else resource_error(error)
                if not estimates[cell.group]:
                    raise
        estimate = estimates[cell.group]
        if isinstance(estimate, str):
            unknown.setdefault((state, estimate), []).append(cell)
            continue
        run_seconds, run_bytes = estimate.seconds, estimate.disk_bytes
        if is_first and cell.first_seed.is_searched:  # the first seed also searches
            run_seconds += estimate.reading
            for index, stage in enumerate(estimate.stages):
                if any(later.is_searched for later in cell.first_seed.stages[index:]):
                    trials = len(cell.first_seed.stages[index].trials) * cell.first_seed.run.search_repeat
                    run_seconds, run_bytes = run_seconds + trials * stage.seconds, run_bytes + trials * stage.disk_bytes
        seconds, disk_bytes = seconds + run_seconds, disk_bytes + run_bytes
        _print(f"{state:8} {cell}: {format_seconds(run_seconds)}, {format_bytes(run_bytes)}")
    for (state, reason), similar in unknown.items():
        runs = f"{len(similar)} runs, for example {similar[0]}" if similar[1:] else similar[0]
        _print(f"{state:8} {runs}: {reason}")
    _print(f"remaining, one run after the other: {format_seconds(seconds)}, {format_bytes(disk_bytes)} of disk space")
    if unknown:
        _print(f"not included: {sum(map(len, unknown.values()))} runs that cannot be estimated")


def _print(text: str, *, quiet: bool = False) -> None:
    """Print a line of a grid; its runs print their own output."""
    if not quiet:
        say(text)
