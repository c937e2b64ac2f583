"""Tables of hand-made result folders: complete, partial, missing, damaged, not finite, of other settings."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from afa.command_line import main
from afa.config.formatting import format_settings
from afa.config.grid import Cell, Grid
from afa.config.hocon import load_config
from afa.grid.paper_tables import parameter_counts, published_accuracies, published_parameters
from afa.grid.tables import write_tables

CONFIG = "hocon_config/paper/table_4.hocon"
HEAD = "epoch\tclc_loss\tclassifier_loss\tfeature_loss\ttrain_total_loss\ttrain_top1_acc\tval_loss\tval_top1_acc\n"


def cells(text: str) -> str:
    """A text without the spaces that align its tables."""
    return re.sub(" +", " ", text)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    found = load_config(CONFIG, [f"outpath={tmp_path}"])
    assert isinstance(found, Grid)
    return found


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., dict[tuple[str, str], dict[str, str]]]:
    """``report(...)`` makes the report; returns the rows of its CSV by data set and method."""

    def make(*overrides: str) -> dict[tuple[str, str], dict[str, str]]:
        assert main([CONFIG, f"outpath={tmp_path}", "mode=report", *overrides]) == 0
        with (tmp_path / "paper/table_4.csv").open() as file:
            return {(row["dataset"], row["method"]): row for row in csv.DictReader(file)}

    return make


def start(cell: Cell) -> None:
    """Write the files of a run that was killed at its start."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "settings.log").write_text(format_settings(cell.run_settings()))


def finish(cell: Cell, best: float, last: float) -> None:
    """Write the files of a finished run that a report reads."""
    start(cell)
    score = {"epoch": 1, "selection_top1": best, "test_loss": 1.0, "test_top5": 99.0, "test_balanced": best - 50}
    stage = {
        "method": "AST",
        "seed": 1,
        "epochs": 2,
        "selected_on": "test",
        "best": {**score, "test_top1": best},
        "last": {**score, "test_top1": last, "test_balanced": last - 50},
        "images_per_second": 1.0,
        "seconds": 1.0,
        "folder": str(cell.folder),
        "start": "",
    }
    result = {"run": "seed", "repeats": [[stage]], "data": {"classes": 120, "train": {"images": 12000}}}
    (cell.folder / "result.json").write_text(json.dumps(result))
    (cell.folder / "log.txt").write_text(HEAD + "1\t2\t1\t1\t4\t50\t2\t50\n2\t1\t1\t1\t3\t60\tnan\tnan\n")


def cells_of(grid: Grid, dataset: str, method: str) -> list[Cell]:
    return [cell for cell in grid.cells if (cell.dataset, cell.method) == (dataset, method)]


def test_measured_and_published_accuracies_share_a_row(grid, report, tmp_path, capsys) -> None:
    """Stanford Dogs, ResNet-101: AST 90.1 +- 0.1 and AFA 90.1 +- 0.0 are published."""
    for cell, best in zip(cells_of(grid, "Stanford Dogs 120", "AST"), (90.0, 90.1, 90.2, 90.1, 90.1), strict=True):
        finish(cell, best, best - 1)
    for cell in cells_of(grid, "Stanford Dogs 120", "AFA"):
        finish(cell, 91.0, 90.5)
    rows = report()
    ast, afa = rows["Stanford Dogs 120", "AST"], rows["Stanford Dogs 120", "AFA"]
    assert (ast["best_mean"], ast["last_mean"], ast["published_mean"]) == ("90.1000", "89.1000", "90.1000")
    assert float(ast["best_deviation"]) == pytest.approx(0.0707, abs=1e-4)
    assert (ast["difference"], ast["outside_two_deviations"]) == ("0.0000", "0")
    assert (afa["difference"], afa["outside_two_deviations"]) == ("0.9000", "1")
    assert (ast["best_selected_on"], ast["alpha"], afa["alpha"]) == ("test", "0.1", "0.1 / 0.15")
    text = capsys.readouterr().out
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({tuple(match.start() for match in re.finditer(r"\|", line)) for line in table}) == 1  # aligned
    assert ast["last_balanced_mean"] == "39.1000"
    line = "| AFA | 0.1 / 0.15 | 5 of 5 | 90.5 ± 0.0 | 40.5 ± 0.0 | 91.0 ± 0.0 | test | 90.1 ± 0.0 | +0.9 ! |"
    assert line in cells(text)
    assert line in cells((tmp_path / "paper/table_4.md").read_text())
    assert "*Difference*" in text
    assert "(held-out)" not in text  # the notes explain what the table contains
    assert (tmp_path / "paper/table_4.png").read_bytes().startswith(b"\x89PNG")


def test_incomplete_runs_are_counted_and_named(grid, report, capsys) -> None:
    done, started, incomplete, nan, other = cells_of(grid, "Stanford Dogs 120", "AST")
    finish(done, 90.0, 89.0)
    start(started)
    finish(incomplete, 90.0, 89.0)
    (incomplete.folder / "result.json").write_text((incomplete.folder / "result.json").read_text()[:50])
    finish(nan, float("nan"), 89.0)
    finish(other, 10.0, 10.0)
    settings = other.folder / "settings.log"
    settings.write_text(settings.read_text().replace("lr = 0.01", "lr = 0.02"))
    row = report()["Stanford Dogs 120", "AST"]
    assert (row["runs"], row["wanted"], row["not_done"]) == ("1", "5", "1 partial, 3 broken")
    assert (row["best_mean"], row["best_deviation"]) == ("90.0000", "0.0000")
    text = capsys.readouterr().out
    assert f"{incomplete.folder / 'result.json'}: modified or incomplete" in text
    assert f"{nan.folder / 'result.json'}: modified or incomplete" in text
    assert f"{other.folder}: made with other settings (lr: 0.02, now 0.01)" in text


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "{}", '{"repeats": []}', '{"repeats": [[]], "data": {}}', '{"repeats": [[{}]]}', "\x00"],
)
def test_every_damaged_result_is_named(grid, report, capsys, content) -> None:
    cell = grid.cells[0]
    start(cell)
    (cell.folder / "result.json").write_text(content)
    assert report()[cell.dataset, cell.method]["not_done"] == "4 missing, 1 broken"
    assert str(cell.folder) in capsys.readouterr().out


@pytest.mark.parametrize("data", ["{}", "null", '{"classes": 120}', '{"classes": 0, "train": {"images": 1}}'])
def test_a_result_without_image_counts_is_named(grid, report, capsys, data) -> None:
    cell = grid.cells[0]
    finish(cell, 90.0, 89.0)
    path = cell.folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": json.loads(data)}))
    assert report("grid.kind=images_per_class")[cell.dataset, cell.method]["not_done"] == "4 missing, 1 broken"
    assert f"{path}: damaged" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"\xff", b"lr = {", b""])
def test_damaged_settings_are_named(grid, report, capsys, content) -> None:
    cell = grid.cells[0]
    finish(cell, 90.0, 89.0)
    (cell.folder / "settings.log").write_bytes(content)
    assert report()[cell.dataset, cell.method]["not_done"] == "4 missing, 1 broken"
    assert str(cell.folder) in capsys.readouterr().out


def test_without_any_run_everything_is_missing(report, capsys) -> None:
    assert {row["runs"] for row in report().values()} == {"0"}
    text = cells(capsys.readouterr().out)
    assert "| Stanford Dogs 120 | DFA | 0 of 5 (5 missing) | missing | missing | 88.3 ± 0.2 |" in text


def test_a_grid_without_cells_has_an_empty_table(grid) -> None:
    text, *files = write_tables(replace(grid, cells=()))
    assert "0 of 0 runs are done" in text
    assert "*Difference*" not in text
    assert files[-1] == "no PNG: there is nothing to draw yet"


@pytest.mark.parametrize("kind", ["curves", "images_per_class"])
def test_plots_show_the_runs_that_can_be_read(grid, report, tmp_path, capsys, kind) -> None:
    report(f"grid.kind={kind}")
    assert "no PNG: there is nothing to draw yet" in capsys.readouterr().out
    first, second = cells_of(grid, "Stanford Dogs 120", "AST")[:2]
    finish(first, 90.0, 89.0)
    finish(second, 91.0, 89.0)
    (second.folder / "log.txt").write_text(HEAD + "1\t2\tx")
    report(f"grid.kind={kind}")
    assert (tmp_path / "paper/table_4.png").read_bytes().startswith(b"\x89PNG")


def test_published_accuracies_use_the_names_of_the_configs() -> None:
    for table in ("3", "4", "5", "7", "8", "9", "10", "11"):
        grid = load_config(f"hocon_config/paper/table_{table}.hocon")
        assert {cell.group for cell in grid.cells} == set(published_accuracies(table))


def test_a_run_of_several_tables_is_the_same_in_all() -> None:
    runs: dict[Path, str] = {}
    for table in ("3", "4", "7", "11"):
        for cell in load_config(f"hocon_config/paper/table_{table}.hocon").cells:
            assert runs.setdefault(cell.folder, format_settings(cell.run_settings())) == format_settings(
                cell.run_settings()
            )


def test_table_6_is_counted(tmp_path, capsys) -> None:
    config = ["hocon_config/paper/table_6.hocon", f"outpath={tmp_path}", 'grid.networks=["MobileNetV2"]']
    assert main([*config, "mode=report"]) == 0
    assert "| MobileNetV2 | 3.505 | 0.057 | 0.028 | 3.50 / 0.06 / 0.03 |" in cells(capsys.readouterr().out)
    (cell,) = {cell.network: cell for cell in load_config(config[0], config[1:]).cells}.values()
    assert parameter_counts(cell.first_seed)[1:] == (56_791, 28_358)  # exactly known
    assert published_parameters()["MobileNetV2"] == (3.5, 0.06, 0.03)
