"""``dry_run=true``: a line a run, with its state, and what is still to be done in hours and bytes."""

from collections.abc import Sequence

from afa.config.grid import Cell
from afa.errors import AFAError
from afa.grid.runs import State, read_run
from afa.results.figures import format_bytes, format_seconds
from afa.training.dry_run import Estimate, estimate


def list_runs(cells: Sequence[Cell]) -> None:
    """Print the runs; time and disk are estimated once for the seeds of a group, from a few real steps.

    A group that cannot be estimated, for example since its data set is not there, is listed with the reason.
    """
    estimates: dict[tuple[str, str, str], Estimate | str] = {}
    seconds, disk, unknown = 0.0, 0, 0
    for cell in cells:
        state = read_run(cell).state
        text = ""
        if state is not State.DONE:
            is_first = cell.group not in estimates
            if is_first:
                estimates[cell.group] = _estimate(cell)
            found = estimates[cell.group]
            if isinstance(found, str):
                unknown += 1
                text = f": {found}"
            else:
                time, room = _cost(found, cell, with_search=is_first and cell.is_searched)
                seconds, disk = seconds + time, disk + room
                text = f": {format_seconds(time)}, {format_bytes(room)}"
        print(f"{state:8} {cell}{text}", flush=True)
    print(f"still to do, one after the other: {format_seconds(seconds)}, {format_bytes(disk)} of disk")
    if unknown:
        print(f"without {unknown} runs that cannot be estimated")


def _estimate(cell: Cell) -> Estimate | str:
    """What a seed takes, or why that cannot be told."""
    try:
        return estimate(cell.settings())
    except AFAError as error:
        return error.lines[0]


def _cost(found: Estimate, cell: Cell, *, with_search: bool) -> tuple[float, int]:
    """Seconds and bytes of one run; of the first also those of the search, as if on all the training images."""
    seconds, disk = found.seconds, found.disk_bytes
    for index, stage in enumerate(cell.first_seed.stages if with_search else ()):
        trials = len(stage.search_alpha) * cell.first_seed.run.search_repeat
        seconds += trials * (found.reading + sum(earlier.seconds for earlier in found.stages[: index + 1]))
        disk += trials * sum(earlier.disk_bytes for earlier in found.stages[: index + 1])
    return seconds, disk
