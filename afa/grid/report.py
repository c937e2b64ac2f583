"""``mode=report``: what a grid's runs came to, as Markdown, CSV and PNG, from whatever is in their folders."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from afa.config.grid import Grid
from afa.grid.published import title_of
from afa.grid.runs import Run, State, read_run
from afa.grid.summary import Row, summarise
from afa.results.figures import Spread, format_seconds
from afa.results.records import write_text

_NOTES = """\
Top-1 on the test images in percent, mean ± sample standard deviation over the runs. *Last epoch* is not selected. *Best
epoch* has the highest top-1 of all epochs on the images under *selected on*; with `test` it is selected on the test
images, as the published figures are. *Alpha* (held-out): the best of several on held-out training images. *Difference*:
best epoch less published; `!`: larger than two standard deviations of both together."""


def write_report(grid: Grid) -> None:
    """Write ``<outpath>/<grid>/<config>.md``, ``.csv`` and ``.png``, and print the table and where they are."""
    grid.report.parent.mkdir(parents=True, exist_ok=True)
    if grid.grid.kind == "parameters":
        from afa.grid.parameters import parameter_table

        text = parameter_table(grid)
        _write(grid.report.with_suffix(".md"), text)
        print(text)
        return
    runs = [read_run(cell) for cell in grid.cells]
    rows = summarise(grid, runs)
    text = markdown(grid, rows, runs)
    print(text)
    _write(grid.report.with_suffix(".md"), text)
    _write(grid.report.with_suffix(".csv"), comma_separated(rows))
    _draw(grid, rows, runs)


def markdown(grid: Grid, rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """The table, what it means, and what is wrong with which folder."""
    title = title_of(grid.grid.published)
    heading = f"{grid.report.name}: the paper's Table {grid.grid.published}, {title}" if title else grid.report.name
    done = [run for run in runs if run.state is State.DONE]
    seconds = sum(stage.seconds for run in done for stage in run.stages)
    broken = [f"- {run.problem}" for run in runs if run.state is State.BROKEN]
    lines = [f"# {heading}", "", *_table([_cells(row) for row in rows])]
    lines += ["", f"{len(done)} of {len(runs)} runs are done; their epochs took {format_seconds(seconds)}.", "", _NOTES]
    if broken:
        lines += ["", "Left out, since they cannot be used:", "", *broken]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Markdown; a column that is empty everywhere is left out, one that is the same everywhere stands above."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    same = [name for name in ("network", "data set") if name in columns and len({row[name] for row in rows}) == 1]
    shown = [name for name in columns if name not in same]
    above = [", ".join(f"{name}: {rows[0][name]}" for name in same), ""] if same else []
    lines = [shown, ["---"] * len(shown), *([row[name] for name in shown] for row in rows)]
    return above + [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _cells(row: Row) -> dict[str, str]:
    return {
        "network": row.network,
        "data set": row.dataset,
        "method": row.method,
        "alpha": row.alphas + (" (held-out)" if row.alpha_selected_on else ""),
        "runs": f"{row.runs} of {row.wanted}" + (f" ({row.states})" if row.states else ""),
        "last epoch": _accuracy(row.last) or "missing",
        "best epoch": _accuracy(row.best) or "missing",
        "selected on": row.selected_on,
        "published": _accuracy(row.published),
        "difference": "" if row.difference is None else f"{row.difference:+.1f}{' !' if row.is_outside else ''}",
    }


def _accuracy(value: Spread | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:.1f} ± {value.deviation:.1f}" if value.n > 1 else f"{value.mean:.1f}"


def comma_separated(rows: Sequence[Row]) -> str:
    """The same in numbers; an empty cell where there is none."""
    text = io.StringIO()
    records = [_record(row) for row in rows]
    writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(row: Row) -> dict[str, str | int]:
    spreads = {"last": row.last, "best": row.best, "published": row.published}
    return {
        "network": row.network,
        "dataset": row.dataset,
        "method": row.method,
        "alpha": row.alphas,
        "alpha_selected_on": row.alpha_selected_on,
        "runs": row.runs,
        "wanted": row.wanted,
        "not_done": row.states,
        **{f"{name}_mean": f"{value.mean:.4f}" if value else "" for name, value in spreads.items()},
        **{f"{name}_deviation": f"{value.deviation:.4f}" if value else "" for name, value in spreads.items()},
        "best_selected_on": row.selected_on,
        "difference": "" if row.difference is None else f"{row.difference:.4f}",
        "outside_two_deviations": "" if row.difference is None else int(row.is_outside),
    }


def _draw(grid: Grid, rows: Sequence[Row], runs: Sequence[Run]) -> None:
    """The PNG that belongs to the grid's kind, where matplotlib is there and anything can be drawn."""
    try:
        from afa.grid import figures
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] != "matplotlib":
            raise
        print("no PNG: matplotlib is not installed; pip install matplotlib, then the same command")
        return
    drawings: dict[str, Callable[[], figures.Figure | None]] = {
        "table": lambda: figures.draw_table(rows),
        "curves": lambda: figures.draw_curves(runs),
        "images_per_class": lambda: figures.draw_images_per_class(runs),
    }
    figure = drawings[grid.grid.kind]()
    if figure is None:
        print("no PNG: nothing to draw yet")
        return
    path = grid.report.with_suffix(".png")
    figure.savefig(path, dpi=150)
    print(f"written to {path}")


def _write(path: Path, text: str) -> None:
    write_text(path, text)
    print(f"written to {path}")
