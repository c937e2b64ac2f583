"""Paired differences and their intervals against known values; the sentences about made-up results."""

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from afa.command_line import main
from afa.config.formatting import format_settings
from afa.config.grid import Grid
from afa.config.hocon import load_config
from afa.grid.comparison import Difference, paired_difference, t_quantile, what_seeds_tell

CONFIG = "hocon_config/does_it_help.hocon"


@pytest.mark.parametrize(
    ("freedom", "known"),  # published tables
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_quantiles_of_the_published_tables(freedom, known):
    assert t_quantile(freedom) == pytest.approx(known, abs=5e-5)


def test_quantiles_are_those_of_scipy():
    freedoms = [*range(1, 40), 99, 100, 999, 1000]
    assert [t_quantile(freedom) for freedom in freedoms] == pytest.approx(student.ppf(0.975, freedoms), rel=1e-9)


def test_the_interval_is_that_of_a_paired_t_test():
    ours, theirs = [71.0, 72.5, 70.0, 73.1, 71.9], [66.0, 68.0, 67.5, 66.4, 68.2]
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert str(found) == f"{found.mean:+.1f} ± {found.half_width:.1f}"


def test_only_seeds_of_both_are_paired():
    assert paired_difference({1: 70.0, 2: 80.0}, {2: 79.0, 3: 10.0}) == Difference(1.0, math.inf, 1)
    assert str(Difference(1.0, math.inf, 1)) == "+1.0"
    assert paired_difference({1: 70.0}, {2: 79.0}) is None
    assert paired_difference({1: 70.0, 2: 80.0}, {1: 69.0, 2: 79.0}) == Difference(1.0, 0.0, 2)


def test_the_sentence_about_the_seeds():
    differences = [Difference(5.0, 1.2, 5), Difference(0.5, 1.2, 5), Difference(-1.0, 2.0, 5)]
    assert what_seeds_tell(differences) == (
        "With 5 seeds, 1 of 3 differences are significant: their interval does not contain 0. The median half-width of "
        "the intervals is 1.2 points; ± 0.5 points would need about 17 seeds. More seeds give no information about "
        "other images."
    )
    deviation = 1.2 * math.sqrt(5) / student.ppf(0.975, 4)
    half_widths = [student.ppf(0.975, n - 1) * deviation / math.sqrt(n) for n in (16, 17)]
    assert half_widths[0] > 0.5 >= half_widths[1]
    assert what_seeds_tell([Difference(5.0, math.inf, 1)]) == "One seed is not sufficient to assess a difference."
    assert what_seeds_tell([]) == ""


def made_up(tmp_path: Path, results: dict[str, Sequence[float]], *, seconds: dict[str, float], steps: int = 60) -> None:
    """Write runs with these accuracies in the last epoch."""
    grid = load_config(CONFIG, [f"outpath={tmp_path}"])
    assert isinstance(grid, Grid)
    for cell in grid.cells:
        if cell.seed > len(results[cell.method]):
            continue
        score = {"epoch": 1, "selection_top1": 50.0, "test_loss": 1.0, "test_top5": 99.0}
        score["test_top1"] = results[cell.method][cell.seed - 1]
        stages = [
            {
                "method": stage.label,
                "seed": cell.seed,
                "epochs": 1,
                "selected_on": "held_out",
                "best": score,
                "last": score,
                "images_per_second": 1.0,
                "seconds": seconds[cell.method] / len(cell.first_seed.stages),
                "folder": str(cell.folder),
                "start": "",
                "steps": steps // len(cell.first_seed.stages),
            }
            for stage in cell.first_seed.stages
        ]
        cell.folder.mkdir(parents=True)
        (cell.folder / "settings.log").write_text(format_settings(cell.run_settings()))
        result = {"run": "seed", "repeats": [stages], "data": {"classes": 2, "train": {"images": 10}}}
        (cell.folder / "result.json").write_text(json.dumps(result))


SECONDS = {"L2-FE": 10.0, "L2": 50.0, "AFA": 100.0}


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        (
            {"AFA": [73.0, 73.6, 72.7], "L2-FE": [70.2, 70.3, 69.5], "L2": [65.4, 65.0, 64.9]},
            "AFA is better than a frozen network by 3.1 ± 0.7 points and than fine-tuning by 8.0 ± 1.3 points: use it.",
        ),
        (
            {"AFA": [70.1, 70.4, 69.5], "L2-FE": [70.2, 70.3, 69.5], "L2": [65.4, 65.0, 64.9]},
            "Training only the head is as good as AFA, and 10 times as fast.",
        ),
        (
            {"AFA": [71.2, 72.0, 69.1], "L2-FE": [70.2, 70.3, 69.5], "L2": [65.4, 65.0, 64.9]},
            "3 seeds are not sufficient: the difference between AFA and training only the head is 0.8 ± 2.7 points.",
        ),
        (
            {"AFA": [68.1, 68.4, 67.5], "L2-FE": [70.2, 70.3, 69.5], "L2": [65.4, 65.0, 64.9]},
            "Training only the head is better than AFA by 2.0 ± 0.2 points, and 10 times as fast.",
        ),
        (
            {"AFA": [71.2], "L2-FE": [70.2], "L2": [65.4]},
            "One seed is not sufficient: the difference between AFA and training only the head is 1.0 points.",
        ),
        (
            {"AFA": [71.2], "L2-FE": [], "L2": [65.4]},
            "AFA: no answer yet, because runs are missing (mobilenet_v2, pictures).",
        ),
    ],
)
def test_does_it_help_ends_with_one_sentence(results, sentence, tmp_path, capsys):
    made_up(tmp_path, results, seconds=SECONDS)
    assert main([CONFIG, f"outpath={tmp_path}", "mode=report"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == sentence
    text = (tmp_path / "does_it_help/does_it_help.md").read_text()
    assert text.splitlines()[2] == sentence


def test_a_table_with_baselines(tmp_path, capsys):
    results = {"AFA": [73.0, 73.6, 72.7], "L2-FE": [70.2, 70.3, 69.5], "L2": [65.4, 65.0, 64.9]}
    made_up(tmp_path, results, seconds=SECONDS)
    assert main([CONFIG, f"outpath={tmp_path}", "mode=report"]) == 0
    out = capsys.readouterr().out
    head, _, *lines = [re.sub(" +", " ", line) for line in out.splitlines() if line.startswith("|")]
    assert head == "| method | alpha | steps | runs | last epoch | vs L2-FE | vs L2 | best epoch | selected on |"
    assert lines[-1].startswith("| AFA | ")
    assert "| 30 + 30 | 3 of 3 | 73.1 ± 0.5 | +3.1 ± 0.7 | +8.0 ± 1.3 | 73.1 ± 0.5 | held_out |" in lines[-1]
    assert "| L2 | | 60 | 3 of 3 | 65.1 ± 0.3 | -4.9 ± 0.9 | | 65.1 ± 0.3 | held_out |" in lines
    assert "With 3 seeds, 2 of 2 differences are significant" in out.replace("\n", " ")
    assert "Warning" not in out
    with (tmp_path / "does_it_help/does_it_help.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert (rows["AFA"]["steps"], rows["AFA"]["minus_L2"], rows["L2"]["minus_L2"]) == ("30 + 30", "8.0000", "")
    assert float(rows["AFA"]["minus_L2-FE_half_width"]) == pytest.approx(0.6572, abs=1e-4)


def test_a_report_warns_of_different_numbers_of_steps(tmp_path, capsys):
    results = {"AFA": [73.0], "L2-FE": [70.2], "L2": [65.4]}
    made_up(tmp_path, results, seconds=SECONDS)
    path = tmp_path / "does_it_help/mobilenet_v2/pictures/L2_FE/seed_1/result.json"
    path.write_text(path.read_text().replace('"steps": 60', '"steps": 12'))
    assert main([CONFIG, f"outpath={tmp_path}", "mode=report"]) == 0
    line = "**Warning:** the methods have different numbers of steps (mobilenet_v2, pictures): 12: L2-FE; 60: L2, AFA."
    assert line in capsys.readouterr().out.replace("\n", " ")


def test_a_baseline_must_be_a_method_of_the_grid(capsys):
    assert main([CONFIG, 'grid.baseline=["L2-F"]', "mode=report"]) == 2
    assert "grid.baseline: 'L2-F' is not a method of the grid (known: AFA, L2, L2-FE)" in capsys.readouterr().err
