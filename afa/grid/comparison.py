"""Methods against baselines: differences of accuracies that are paired by seed, and their significance."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from afa.config.grid import Grid
from afa.grid.run_states import GridRun, State

AS_GOOD = 1.0
"""Points of accuracy: a baseline is as good as a method that is better by less than this."""
RESOLUTION = 0.5
"""Points of accuracy: about the differences between attentive methods in the paper."""

_BASELINES = {
    "l2_fe": ("a frozen network", "training only the head"),
    "l2": ("fine-tuning", "plain fine-tuning"),
}
"""Method -> the baseline in two sentences: better than ..., and ... is as good."""


class Difference(NamedTuple):
    """Mean of ``n`` paired differences, and half the width of its 95 % t-interval; infinite for one pair."""

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.half_width:.1f}" if self.n > 1 else f"{self.mean:+.1f}"

    @property
    def low(self) -> float:
        """Lower limit of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper limit of the interval."""
        return self.mean + self.half_width


class Comparison(NamedTuple):
    """A method against one baseline.

    Attributes:
        baseline: its ``reg_type``.
        difference: the accuracy of the method minus that of the baseline, in points.
        speed: training time of the method, divided by that of the baseline.
    """

    baseline: str
    difference: Difference
    speed: float


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """``values`` minus ``baseline``, both by seed, over the seeds in both; None if there is none."""
    differences = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    n = len(differences)
    if n < 2:
        return Difference(differences[0], math.inf, 1) if n else None
    half_width = t_quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return Difference(statistics.fmean(differences), half_width, n)


Group = tuple[str, str, str]
"""Names of a network, a data set and a method."""


def differences_to_baselines(grid: Grid, runs: Sequence[GridRun]) -> dict[Group, dict[str, Difference]]:
    """For each group of runs: baseline -> difference of the last epochs on the test images, without missing ones."""
    last: dict[Group, dict[int, float]] = {run.cell.group: {} for run in runs}
    for run in runs:
        if run.state is State.DONE:
            last[run.cell.group][run.cell.seed] = run.stages[-1].last.test_top1
    return {
        (network, dataset, method): {
            name: difference
            for name in grid.grid.baseline
            if name != method
            and (difference := paired_difference(values, last.get((network, dataset, name), {}))) is not None
        }
        for (network, dataset, method), values in last.items()
    }


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t distribution, for a two-sided 95 % interval.

    It inverts the probability P(|t| < T), which is a finite sum in the angle atan(T / sqrt(freedom)) (Abramowitz and
    Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _probability(angle, freedom) < 0.95 else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _probability(angle: float, freedom: int) -> float:
    sine, cosine, odd = math.sin(angle), math.cos(angle), freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * cosine**2
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def what_seeds_tell(differences: Sequence[Difference]) -> str:
    """How many differences are significant, and how precise the seeds are; empty without differences."""
    if not differences:
        return ""
    intervals = [difference for difference in differences if difference.n > 1]
    if not intervals:
        return "One seed is not sufficient to assess a difference."
    seeds = max(difference.n for difference in intervals)
    clear = sum(abs(difference.mean) > difference.half_width for difference in intervals)
    deviations = [
        difference.half_width * math.sqrt(difference.n) / t_quantile(difference.n - 1) for difference in intervals
    ]
    half_width = statistics.median(difference.half_width for difference in intervals)
    return (
        f"With {seeds} seeds, {clear} of {len(intervals)} differences are significant: their interval does not contain "
        f"0. The median half-width of the intervals is {half_width:.1f} points; "
        f"± {RESOLUTION:g} points would need about {_seeds_for(statistics.median(deviations))} seeds. More seeds give "
        "no information about other images."
    )


def _seeds_for(deviation: float) -> int:
    """Number of seeds with which the interval of differences of this deviation has the half-width ``RESOLUTION``."""
    n = max(math.ceil((1.96 * deviation / RESOLUTION) ** 2), 2)  # of the normal distribution, which is narrower
    while t_quantile(n - 1) * deviation / math.sqrt(n) > RESOLUTION:
        n += 1
    return n


def verdicts(grid: Grid, runs: Sequence[GridRun]) -> list[str]:
    """For each method that is not a baseline, on each data set, the sentence of ``verdict``."""
    done = {run.cell.group: run for run in runs if run.state is State.DONE}
    seconds = {group: sum(stage.seconds for stage in run.stages) for group, run in done.items()}
    sentences = []
    for (network, dataset, method), against in differences_to_baselines(grid, runs).items():
        if method in grid.grid.baseline:
            continue
        groups = {name: (network, dataset, name) for name in against}
        comparisons = [
            Comparison(
                done[groups[name]].cell.first_seed.stages[-1].method,
                difference,
                seconds[network, dataset, method] / max(seconds[groups[name]], 1e-9),
            )
            for name, difference in against.items()
        ]
        missing = f"{method}: no answer yet, because runs are missing ({network}, {dataset})."
        sentences.append(verdict(method, comparisons) if len(comparisons) == len(grid.grid.baseline) else missing)
    return sentences


def verdict(method: str, comparisons: Sequence[Comparison]) -> str:
    """One sentence: use the method; a baseline is as good; or there are too few seeds."""
    if all(comparison.difference.low > 0 for comparison in comparisons):
        gains = (
            f"than {_BASELINES.get(baseline, (baseline, baseline))[0]} by {difference.mean:.1f} ± "
            f"{difference.half_width:.1f} points"
            for baseline, difference, _ in comparisons
        )
        return f"{method} is better {' and '.join(gains)}: use it."
    best = min(comparisons, key=lambda comparison: comparison.difference.mean)
    name, gap = _BASELINES.get(best.baseline, (best.baseline, best.baseline))[1], best.difference
    start = name[0].upper() + name[1:]
    speed = f", and {best.speed:.0f} times as fast" if best.speed >= 1.5 else ""
    if gap.high < 0:
        return f"{start} is better than {method} by {-gap.mean:.1f} ± {gap.half_width:.1f} points{speed}."
    if gap.high < AS_GOOD:
        return f"{start} is as good as {method}{speed}."
    seeds = f"{gap.n} seeds are" if gap.n > 1 else "One seed is"
    difference = f"the difference between {method} and {name} is {str(gap).removeprefix('+')} points"
    return f"{seeds} not sufficient: {difference}."
