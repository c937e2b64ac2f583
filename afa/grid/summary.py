"""A row for each network, data set and method of a grid: accuracies over the seeds, beside the published ones."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from afa.config.grid import Grid
from afa.grid.published import published_accuracies
from afa.grid.runs import Run, State
from afa.results.figures import Spread, spread

ROUNDING = 0.05
"""The published deviations are rounded to 0.1: a 0.0 may be as large."""


@dataclass(frozen=True)
class Row:
    """Top-1 on the test images in percent; None where no run is done.

    Attributes:
        runs: runs done, of ``wanted``; ``states`` counts those that are not.
        last: of the last epoch, which nothing was selected for.
        best: of the epoch with the highest top-1 on ``selected_on``: ``test``, as published, or ``held_out``.
        alphas: of each stage, as trained with; several where the seeds differ.
        alpha_selected_on: ``held_out`` where the grid searched for it; else empty.
    """

    network: str
    dataset: str
    method: str
    runs: int
    wanted: int
    states: str
    last: Spread | None
    best: Spread | None
    selected_on: str
    alphas: str
    alpha_selected_on: str
    published: Spread | None

    @property
    def difference(self) -> float | None:
        """Best less published."""
        return self.best.mean - self.published.mean if self.best and self.published else None

    @property
    def is_outside(self) -> bool:
        """Whether the difference is over two standard deviations of both together."""
        if self.difference is None or self.best is None or self.published is None:
            return False
        deviation = math.hypot(self.best.deviation, max(self.published.deviation, ROUNDING))
        return abs(self.difference) > 2 * deviation


def summarise(grid: Grid, runs: Iterable[Run]) -> list[Row]:
    """The rows in the order of the grid."""
    published = published_accuracies(grid.grid.published)
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.cell.group, []).append(run)
    return [_row(group, members, published.get(group)) for group, members in groups.items()]


def _row(group: tuple[str, str, str], runs: Sequence[Run], published: Spread | None) -> Row:
    done = [run for run in runs if run.state is State.DONE]
    final = [run.stages[-1] for run in done]
    counts = {state: sum(run.state is state for run in runs) for state in State if state is not State.DONE}
    return Row(
        *group,
        runs=len(done),
        wanted=len(runs),
        states=", ".join(f"{count} {state}" for state, count in counts.items() if count),
        last=spread([result.last.test_top1 for result in final]) if final else None,
        best=spread([result.best.test_top1 for result in final]) if final else None,
        selected_on=", ".join(sorted({result.selected_on for result in final})),
        alphas=", ".join(sorted({run.alphas for run in done})),
        alpha_selected_on="held_out" if done and done[0].cell.is_searched else "",
        published=published,
    )
