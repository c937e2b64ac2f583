"""What a config with a ``grid { }`` block does: train what is missing, list it, or report."""

from collections.abc import Hashable, Sequence

from afa.config.grid import Cell, Grid
from afa.config.paths import check_dataset
from afa.errors import AFAError, BusyError, ConfigError, one_line
from afa.grid.runs import State, read_run
from afa.training.signals import StoppedError


def do_grid(grid: Grid) -> int:
    """Do what the options say; returns the exit status, 1 if a run failed.

    Raises:
        ConfigError: none of the data sets is there.
        StoppedError: a signal came; what the run at work had done is saved.
    """
    if grid.options.mode == "report":
        from afa.grid.report import write_report

        write_report(grid)
        return 0
    if grid.grid.kind == "parameters":
        print("there is nothing to train; mode=report counts the parameters")
        return 0
    cells = shard(grid.cells, grid.options.shard)
    if not grid.options.dry_run:
        return train(cells)
    from afa.grid.listing import list_runs

    list_runs(cells)
    return 0


def shard(cells: Sequence[Cell], part: str) -> list[Cell]:
    """The ``k``-th of ``n`` parts, ``part`` being ``k/n``: disjoint, and together everything.

    Seeds that share a search for alpha stay together.
    """
    k, n = map(int, part.split("/"))
    units: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        units.setdefault(cell.group if cell.is_searched else cell.folder, []).append(cell)
    return [cell for unit in list(units.values())[k - 1 :: n] for cell in unit]


def train(cells: Sequence[Cell]) -> int:
    """Train each cell that is not done. One that fails is said in a line, and the others go on."""
    cells, failures = _with_data(cells)
    print("\n".join(failures), end="\n" * bool(failures), flush=True)
    for number, cell in enumerate(cells, 1):
        title = f"[{number}/{len(cells)}] {cell}"
        found = read_run(cell)
        if found.state is State.DONE:
            print(f"{title}: done already, last top-1 {found.stages[-1].last.test_top1:.2f} %", flush=True)
            continue
        print(title, flush=True)
        failure = _train_one(cell)
        if failure:
            failures.append(f"{title}: {failure}")
            print(failures[-1], flush=True)
    print("\n".join([*failures, f"{len(cells)} runs; failed or left out: {len(failures)}"]), flush=True)
    return 1 if failures else 0


def _with_data(cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """The cells whose data set is there, and a line for each data set that is not."""
    there, missing = [], {}
    for cell in cells:
        data = cell.first_seed.data
        problems = check_dataset(data.root, data.dataset)
        if problems:
            missing[cell.dataset] = f"{problems[0].key}: {problems[0].message}"
        else:
            there.append(cell)
    if cells and not there:
        raise ConfigError(list(dict.fromkeys(missing.values())))
    return there, [f"{dataset}: its runs are left out; {line}" for dataset, line in missing.items()]


def _train_one(cell: Cell) -> str:
    """Why the run failed; empty where it did not, or where another process has it at work."""
    from afa.grid.search import choose_alphas, run

    try:
        run(cell.settings(choose_alphas(cell.first_seed, cell.search_folder) if cell.is_searched else None))
    except StoppedError:
        raise
    except BusyError as error:
        print(f"{cell}: left to its owner ({error})", flush=True)
    except AFAError as error:
        return "; ".join(error.lines)
    except (OSError, RuntimeError) as error:  # a full disk, a card without memory: the next run may fare better
        return one_line(error)
    return ""
