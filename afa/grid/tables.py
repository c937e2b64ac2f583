"""``mode=report``: writes the results of the finished runs of a grid as Markdown, CSV and PNG."""

import csv
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from afa.config.grid import Grid
from afa.files import read_text, write_bytes, write_csv, write_text
from afa.grid.comparison import Difference, differences_to_baselines, verdicts, what_seeds_tell
from afa.grid.paper_tables import parameter_table, published_accuracies, table_title
from afa.grid.run_states import GridRun, State, read_run
from afa.results.outcomes import Spread, balanced_spread, format_markdown, format_seconds, spread
from afa.results.run_folder import RunFolder

ROUNDING = 0.05
"""The published deviations are rounded to 0.1, so 0.0 means at most this."""

_NOTES = """\
Top-1 on the test images in percent, mean ± sample standard deviation over the runs. *Last epoch*
is not selected; *balanced* is its balanced accuracy. *Best epoch* has the highest top-1 of all
epochs on the images under *selected on*; with `test` it is selected on the test images, as in the
paper."""
_SEARCHED = "(held-out): the value was selected on held-out images."
_PUBLISHED = """\
*Difference*: best epoch minus published; `!`: larger than two standard deviations, combined from
both results."""
_DIFFERENCES = (
    "*vs*: last epoch minus last epoch of the baseline, as the mean over the same seeds, with its 95 % t-interval."
)
_WIDTH = 100  # columns of the terminal


class TableRow(NamedTuple):
    """Results of one network, data set and method over the seeds.

    Attributes:
        runs: number of runs that are done, out of ``wanted``; ``states`` counts the others.
        last: test top-1 in percent at the last epoch, which is not selected; None if no run is done.
        balanced: balanced accuracy (the mean over the classes) at the last epoch; None if a run does not contain it.
        best: test top-1 at the epoch with the highest top-1 on ``selected_on``: ``test``, as in the paper, or
            ``held_out``.
        alphas: of each stage, as trained with; several if the seeds differ.
        alpha_selected_on, lr_selected_on: ``held_out`` if the grid searched for it, else empty.
        learning_rates, steps: of each stage, as ``alphas``.
        differences: baseline -> last epoch minus that of the baseline, paired by seed.
    """

    network: str
    dataset: str
    method: str
    runs: int
    wanted: int
    states: str
    last: Spread | None
    balanced: Spread | None
    best: Spread | None
    selected_on: str
    alphas: str
    alpha_selected_on: str
    learning_rates: str
    lr_selected_on: str
    steps: str
    differences: Mapping[str, Difference]
    published: Spread | None

    @property
    def difference(self) -> float | None:
        """Best minus published."""
        return self.best.mean - self.published.mean if self.best and self.published else None

    @property
    def is_outside(self) -> bool:
        """Whether the difference exceeds two standard deviations: the root of the sum of both variances."""
        if not (self.best and self.published):
            return False
        deviation = math.hypot(self.best.deviation, max(self.published.deviation, ROUNDING))
        return abs(self.best.mean - self.published.mean) > 2 * deviation


def write_tables(grid: Grid) -> Iterator[str]:
    """Write ``<outpath>/<grid>/<config>.md``, ``.csv`` and ``.png``.

    Yields:
        the table, the paths of the files and the sentences of ``verdicts``, for the terminal.
    """
    grid.report.parent.mkdir(parents=True, exist_ok=True)
    markdown_path, csv_path, png_path = (grid.report.with_suffix(suffix) for suffix in (".md", ".csv", ".png"))
    if grid.grid.kind == "parameters":
        text = parameter_table(grid)
    else:
        runs = [read_run(cell) for cell in grid.cells]
        rows = summarise(grid, runs)
        text = markdown(grid, rows, runs)
    yield text
    write_text(markdown_path, text)
    yield f"written to {markdown_path}"
    if grid.grid.kind != "parameters":
        records = [_record(row, grid.grid.baseline) for row in rows]
        write_csv(csv_path, list(records[0]) if records else [], [list(record.values()) for record in records])
        yield f"written to {csv_path}"
        is_drawn = _draw(grid.grid.kind, rows, runs, png_path)
        yield f"written to {png_path}" if is_drawn else "no PNG: there is nothing to draw yet"
        if grid.grid.kind == "does_it_help":
            yield from verdicts(grid, runs)


def summarise(grid: Grid, runs: Sequence[GridRun]) -> list[TableRow]:
    """A row for each network, data set and method, in the order of the grid."""
    published = published_accuracies(grid.grid.published)
    differences = differences_to_baselines(grid, runs)
    rows = []
    for group in dict.fromkeys(run.cell.group for run in runs):
        members = [run for run in runs if run.cell.group == group]
        done = [run for run in members if run.state is State.DONE]
        final, stages = [run.stages[-1] for run in done], members[0].cell.first_seed.stages
        counts = {state: sum(run.state is state for run in members) for state in State if state is not State.DONE}
        rows.append(
            TableRow(
                *group,
                runs=len(done),
                wanted=len(members),
                states=", ".join(f"{count} {state}" for state, count in counts.items() if count),
                last=spread([result.last.test_top1 for result in final]) if final else None,
                balanced=balanced_spread([result.last for result in final]) if final else None,
                best=spread([result.best.test_top1 for result in final]) if final else None,
                selected_on=", ".join(sorted({result.selected_on for result in final})),
                alphas=", ".join(sorted({run.alphas for run in done})),
                alpha_selected_on="held_out" if done and any(stage.search_alpha for stage in stages) else "",
                learning_rates=", ".join(sorted({run.learning_rates for run in done})),
                lr_selected_on="held_out" if done and any(stage.search_lr for stage in stages) else "",
                steps=", ".join(sorted({run.steps for run in done})),
                differences=differences[group],
                published=published.get(group),
            )
        )
    return rows


def markdown(grid: Grid, rows: Sequence[TableRow], runs: Sequence[GridRun]) -> str:
    """The table, its legend, and a line for each broken run.

    A column that is empty in all rows is left out. A network or data set that is the same in all rows is printed
    above the table.
    """
    cells = [_cells(row, grid.grid.baseline) for row in rows]
    columns = [name for name in (cells[0] if cells else ()) if any(row[name] for row in cells)]
    same = [name for name in ("network", "data set") if name in columns and len({row[name] for row in cells}) == 1]
    shown = [name for name in columns if name not in same]
    table = format_markdown(shown, [[row[name] for name in shown] for row in cells]) if cells else []

    title = table_title(grid.grid.published)
    heading = f"{grid.report.name}: the paper's Table {grid.grid.published}, {title}" if title else grid.report.name
    done = [run for run in runs if run.state is State.DONE]
    seconds = sum(stage.seconds for run in done for stage in run.stages)
    broken = [f"- {run.problem}" for run in runs if run.state is State.BROKEN]
    lines = [f"# {heading}", ""]
    lines += [f"{sentence}\n" for sentence in verdicts(grid, runs)] if grid.grid.kind == "does_it_help" else []
    lines += [", ".join(f"{name}: {cells[0][name]}" for name in same), ""] if same else []
    lines += [*table, "", f"{len(done)} of {len(runs)} runs are done; their epochs took {format_seconds(seconds)}.", ""]
    lines += _warn_of_steps(rows)
    is_searched = any(row.alpha_selected_on or row.lr_selected_on for row in rows)
    lines += [_NOTES, *([_SEARCHED] if is_searched else []), *([_PUBLISHED] if "difference" in shown else [])]
    if grid.grid.baseline:
        compared = [row for row in rows if row.method not in grid.grid.baseline]
        differences = [difference for row in compared for difference in row.differences.values()]
        lines += ["", textwrap.fill(f"{_DIFFERENCES} {what_seeds_tell(differences)}", _WIDTH)]
    lines += ["", "Left out, because they cannot be used:", "", *broken] if broken else []
    return "\n".join(lines) + "\n"


def _cells(row: TableRow, baselines: Sequence[str]) -> dict[str, str]:
    """The row of the printed table by column."""
    return {
        "network": row.network,
        "data set": row.dataset,
        "method": row.method,
        "alpha": row.alphas + (" (held-out)" if row.alpha_selected_on else ""),
        "lr": f"{row.learning_rates} (held-out)" if row.lr_selected_on else "",
        "steps": row.steps,
        "runs": f"{row.runs} of {row.wanted}" + (f" ({row.states})" if row.states else ""),
        "last epoch": _accuracy(row.last) or "missing",
        "balanced": _accuracy(row.balanced),
        **{f"vs {name}": str(row.differences.get(name, "")) for name in baselines},
        "best epoch": _accuracy(row.best) or "missing",
        "selected on": row.selected_on,
        "published": _accuracy(row.published),
        "difference": "" if row.difference is None else f"{row.difference:+.1f}{' !' if row.is_outside else ''}",
    }


def _warn_of_steps(rows: Sequence[TableRow]) -> list[str]:
    """A line for each network and data set whose methods were trained for different numbers of steps."""
    lines = []
    for pair in dict.fromkeys(row[:2] for row in rows):
        methods: dict[int, list[str]] = {}
        for row in rows:
            if row[:2] == pair and row.steps:
                methods.setdefault(sum(map(int, row.steps.split(",")[0].split("+"))), []).append(row.method)
        if len(methods) > 1:
            counts = "; ".join(f"{steps}: {', '.join(names)}" for steps, names in sorted(methods.items()))
            warning = f"**Warning:** the methods have different numbers of steps ({', '.join(pair)}): {counts}."
            lines += [textwrap.fill(warning, _WIDTH), ""]
    return lines


def _accuracy(value: Spread | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:.1f} ± {value.deviation:.1f}" if value.n > 1 else f"{value.mean:.1f}"


def _record(row: TableRow, baselines: Sequence[str]) -> dict[str, object]:
    """The row of the CSV file by column; a cell without a value is empty."""
    against = {name: row.differences.get(name) for name in baselines}
    spreads = {"last": row.last, "last_balanced": row.balanced, "best": row.best, "published": row.published}
    return {
        "network": row.network,
        "dataset": row.dataset,
        "method": row.method,
        "alpha": row.alphas,
        "alpha_selected_on": row.alpha_selected_on,
        "runs": row.runs,
        "wanted": row.wanted,
        "not_done": row.states,
        "lr": row.learning_rates,
        "lr_selected_on": row.lr_selected_on,
        "steps": row.steps,
        **{f"minus_{name}": f"{value.mean:.4f}" if value else "" for name, value in against.items()},
        **{f"minus_{name}_half_width": f"{value.half_width:.4f}" if value else "" for name, value in against.items()},
        **{f"{name}_mean": f"{value.mean:.4f}" if value else "" for name, value in spreads.items()},
        **{f"{name}_deviation": f"{value.deviation:.4f}" if value else "" for name, value in spreads.items()},
        "best_selected_on": row.selected_on,
        "difference": "" if row.difference is None else f"{row.difference:.4f}",
        "outside_two_deviations": "" if row.difference is None else int(row.is_outside),
    }


def _draw(kind: str, rows: Sequence[TableRow], runs: Sequence[GridRun], path: Path) -> bool:
    """Write the plot of the grid's kind; False if there is nothing to draw yet."""
    from afa.report import plots

    figure = None
    if kind in ("table", "does_it_help"):
        selected_on = "/".join(sorted({row.selected_on for row in rows if row.selected_on})) or "test"
        accuracies = {row[:3]: (row.last, row.best, row.published) for row in rows if row.last or row.published}
        figure = plots.accuracy_panels(accuracies, selected_on) if accuracies else None
    elif kind == "curves":
        panels: dict[str, dict[str, list[list[dict[str, float]]]]] = {}
        for cell in (run.cell for run in runs):
            stages = len(cell.first_seed.stages)
            folder = partial(RunFolder(cell.folder).stage_folder, repeat=1, repeats=1, stages=stages)
            if epochs := [row for stage in range(stages) for row in read_log(folder(stage=stage + 1).log_txt)]:
                panel = panels.setdefault(f"{cell.network}, {cell.dataset}", {})
                panel.setdefault(cell.method, []).append(epochs)
        figure = plots.loss_curves(panels) if panels else None
    else:
        measured: dict[str, dict[str, dict[float, list[float]]]] = {}
        published: dict[tuple[str, str, float], float] = {}
        known = published_accuracies("3")
        for run in (run for run in runs if run.state is State.DONE):
            network, _, method = run.cell.group
            images = round(run.images_per_class, 1)
            by_size = measured.setdefault(network, {}).setdefault(method, {})
            by_size.setdefault(images, []).append(run.stages[-1].best.test_top1)
            if run.cell.group in known:
                published[network, method, images] = known[run.cell.group].mean
        figure = plots.images_per_class(measured, published) if measured else None
    if figure is not None:
        plots.to_image(figure).save(content := io.BytesIO(), "PNG")
        write_bytes(path, content.getvalue())
    return figure is not None


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of ``log.txt`` by column name; empty if the file cannot be read."""
    try:
        rows = csv.DictReader(read_text(path).splitlines(), delimiter="\t")
        return [{name: float(cell) for name, cell in row.items()} for row in rows]
    except (OSError, ValueError, TypeError):
        return []
