"""Numbers and tables as text for the terminal."""

import statistics
from collections.abc import Sequence

from afa.results.outcomes import StageResult, spread


def format_seconds(seconds: float) -> str:
    """A duration in a readable unit: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(count: int) -> str:
    """A size in decimal units: ``27 MB``, ``1.3 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns of text, two spaces apart, with a rule under the header."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def results_table(repeats: Sequence[Sequence[StageResult]]) -> str:
    """One row for each stage, over all repeats: accuracies of the best and the last epoch, and speed.

    Args:
        repeats: the results of the stages of each repeat.
    """
    rows = []
    for stage in zip(*repeats, strict=True):
        best_epochs = ", ".join(str(result.best.epoch) for result in stage)
        rows.append(
            [
                stage[0].method,
                str(spread([result.best.test_top1 for result in stage])),
                f"{best_epochs} of {stage[0].epochs}",
                str(spread([result.last.test_top1 for result in stage])),
                f"{statistics.median(result.images_per_second for result in stage):.0f}",
                f"{sum(result.seconds for result in stage):.0f} s",
            ]
        )
    header = ["stage", f"best top-1 % (on {repeats[0][0].selected_on})", "at epoch", "last top-1 %", "images/s", "time"]
    return format_table(header, rows)
