"""Scores of classes, and the table of a run."""

import math
from dataclasses import replace

import pytest

from afa.results.outcomes import (
    EpochRow,
    Score,
    Spread,
    StageResult,
    balanced_spread,
    class_scores,
    results_table,
    spread,
)


def test_precision_recall_and_f1_of_a_class():
    true, predicted = ["a"] * 6 + ["b"] * 2, ["a", "a", "a", "b", "b", "c", "b", "a"]
    a, b, c, d = class_scores(true, predicted, "abcd")
    assert (a.images, a.predicted, a.correct) == (6, 4, 3)
    assert (a.precision, a.recall, a.f1) == (75.0, 50.0, 60.0)  # 2 * 75 * 50 / (75 + 50)
    assert (b.precision, b.recall, b.f1) == (100 / 3, 50.0, 40.0)
    assert (c.precision, c.f1) == (0.0, 0.0)  # no test image of the class, but an image is classified as it
    assert math.isnan(c.recall)
    assert all(math.isnan(value) for value in (d.precision, d.recall, d.f1))


def test_the_table_says_what_each_accuracy_is():
    """The best epoch is selected on held-out images, and the accuracy next to it is that on the test images."""
    best, last = Score(3, 36.11, 1.0, 26.5, 90.0, 20.0), Score(6, 30.0, 1.0, 25.0, 91.0, 19.25)
    results = [StageResult("AST", seed, 6, "held_out", best, last, 100.0, 12.0, "runs/x", "file") for seed in (1, 2)]
    assert results_table([[result] for result in results]).splitlines() == [
        "stage  epoch                   test top-1 %        balanced %          images/s  time",
        "-" * 85,
        "AST    best on held_out: 3, 3  26.50 ± 0.00 (n=2)  20.00 ± 0.00 (n=2)  100       24 s",
        "       last: 6                 25.00 ± 0.00 (n=2)  19.25 ± 0.00 (n=2)",
    ]


def test_the_deviation_over_seeds_is_that_of_a_sample():
    assert spread([1.0, 3.0]) == Spread(2.0, math.sqrt(2), 2)
    assert spread([5.0]) == Spread(5.0, 0.0, 1)


def test_a_result_of_version_0_1_0_has_no_balanced_accuracy():
    old = {"epoch": 1, "selection_top1": 50.0, "test_loss": 1.0, "test_top1": 50.0, "test_top5": 90.0}
    assert balanced_spread([Score(**old), Score(**old, test_balanced=40.0)]) is None
    assert "unknown" in results_table([[StageResult("L2", 1, 1, "test", Score(**old), Score(**old), 1.0, 1.0, "", "")]])


def test_the_line_of_an_epoch_has_both_accuracies_and_fits_in_100_columns():
    values = {"learning_rate": 0.01, "head_penalty": 1.0, "total": 1.0, "images_per_second": 1.0}
    row = EpochRow(epoch=12, classification=2.4567, alignment=1188.2, train_top1=98.76, **values)
    assert row.describe("test", is_best=False) == "cls 2.46, align 1.19e+03, train 98.8 %"
    row = replace(row, loss=1.0, top1=61.049, top5=99.0, balanced=59.8)
    text = row.describe("held_out", is_best=True)
    assert text == "cls 2.46, align 1.19e+03, train 98.8, held_out 61.0, balanced 59.8 % (best)"
    assert len(f"AST-fixed epoch 12/24: {text}") <= 100


@pytest.mark.parametrize("change", [{"test_top1": "high"}, {"selection_top1": math.nan}, {"epoch": None}])
def test_a_result_with_other_values_is_refused(change):
    score = Score(3, 36.11, 1.0, 26.5, 90.0, 20.0)
    stored = StageResult("AST", 1, 6, "held_out", score, score, math.nan, 12.0, "runs/x", "file").to_dict()
    assert StageResult.from_dict(stored).best == score
    with pytest.raises((TypeError, ValueError)):
        StageResult.from_dict({**stored, "last": {**stored["last"], **change}})
    with pytest.raises(TypeError):
        StageResult.from_dict({**stored, "seconds": "12"})
