"""The row of an epoch in its stored form, ``log.txt``, TensorBoard's scalars, and predictions."""

import csv
import errno
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afa import files
from afa.errors import AFAError
from afa.results.outcomes import EpochRow
from afa.results.records import Scalars, rank_classes, write_log, write_predictions
from afa.results.run_folder import StageFolder

# As in the checkpoints of earlier versions, in this order.
STORED = {
    "epoch": 2,
    "learning_rate": 0.01,
    "classification": 1.5,
    "head_penalty": 0.25,
    "alignment": 120.0,
    "total": 2.75,
    "train_top1": 40.0,
    "entropy_spatial_1": 0.9,
    "entropy_channel_4": 0.03,
    "images_per_second": 12.5,
    "loss": 1.25,
    "top1": 55.5,
    "top5": 90.0,
}
ROW = replace(EpochRow.from_dict(STORED), balanced=50.0)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_has_the_stored_form_of_earlier_checkpoints():
    assert ROW.entropies == {"spatial_1": 0.9, "channel_4": 0.03}
    assert list(ROW.to_dict().items()) == [*STORED.items(), ("balanced", 50.0)]
    assert EpochRow.from_dict(ROW.to_dict()) == ROW
    assert math.isnan(EpochRow.from_dict(STORED).balanced)  # version 0.1.0 did not compute it
    without = {name: value for name, value in ROW.to_dict().items() if not name.startswith("entropy_")}
    assert EpochRow.from_dict(without).to_dict() == without


def test_an_epoch_that_was_not_tested_has_no_accuracy():
    names = ("loss", "top1", "top5")
    row = EpochRow.from_dict({name: value for name, value in STORED.items() if name not in names})
    assert all(math.isnan(row.to_dict()[name]) for name in names)
    assert not row.is_scored
    assert ROW.is_scored


@pytest.mark.parametrize("stored", [{**STORED, "unknown": 1.0}, {"epoch": 1}])
def test_a_modified_row_is_refused(stored):
    with pytest.raises(TypeError):
        EpochRow.from_dict(stored)


def test_the_log_has_the_released_columns(tmp_path):
    write_log(tmp_path / "log.txt", [ROW, replace(ROW, epoch=3, loss=math.nan, top1=math.nan)])
    assert (tmp_path / "log.txt").read_text().splitlines() == [
        "epoch\tclc_loss\tclassifier_loss\tfeature_loss\ttrain_total_loss\ttrain_top1_acc\tval_loss\tval_top1_acc",
        "2\t1.500000\t0.250000\t120.000000\t2.750000\t40.000000\t1.250000\t55.500000",
        "3\t1.500000\t0.250000\t120.000000\t2.750000\t40.000000\tnan\tnan",
    ]


def test_the_scalars_of_a_resumed_stage_replace_those_of_the_epochs_that_are_repeated(tmp_path):
    folder = StageFolder(tmp_path)
    for done, alignments in [(0, {1: 10.0, 2: 20.0, 3: 30.0}), (1, {2: 21.0, 3: 31.0})]:
        scalars = Scalars(folder, done)
        for epoch, alignment in alignments.items():
            row = replace(ROW, epoch=epoch, alignment=alignment, top1=50.0 if epoch == 3 else math.nan)
            scalars.write(row, "held_out")
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    values = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert values["loss/alignment"] == [(1, 10.0), (2, 21.0), (3, 31.0)]
    assert values["accuracy/held_out_top1"] == [(3, 50.0)]
    assert set(values) == {
        *(
            f"loss/{name}"
            for name in ("classification", "head_penalty", "alignment", "total", "held_out_cross_entropy")
        ),
        *("accuracy/train_top1", "accuracy/held_out_top1", "accuracy/held_out_balanced", "optimiser/learning_rate"),
        *("attention_entropy/spatial_1", "attention_entropy/channel_4"),
    }


def test_predictions(tmp_path):
    classes = ["ant", "bee", "cat"]
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, 2.0]])
    paths = [Path(f"{name}.png") for name in "pqr"]
    write_predictions(
        StageFolder(tmp_path), paths=paths, labels=torch.tensor([0, 1, 2]), logits=logits, classes=classes
    )
    rows = read(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["path", "true", "correct"] + [f"{n}{k}" for k in (1, 2, 3) for n in ("top", "probability")]
    assert [(row["path"], row["true"], row["correct"], row["top1"]) for row in rows] == [
        ("p.png", "ant", "1", "ant"),
        ("q.png", "bee", "0", "cat"),
        ("r.png", "cat", "1", "cat"),
    ]
    assert [float(rows[0][f"probability{k}"]) for k in (1, 2, 3)] == pytest.approx(
        logits[0].softmax(0).tolist(), abs=1e-6
    )
    assert [list(row.values()) for row in read(tmp_path / "per_class.csv")] == [
        ["ant", "1", "1", "1", "100.00", "100.00", "100.00"],
        ["bee", "1", "0", "0", "", "0.00", "0.00"],  # nothing is classified as bee: no precision
        ["cat", "1", "2", "1", "50.00", "100.00", "66.67"],
    ]


def test_predictions_agree_with_the_accuracy_where_probabilities_are_equal(tmp_path):
    """Different logits can have the same probability in float32: the logits decide."""
    generator = torch.Generator().manual_seed(0)
    logits = 1e-9 * torch.randn(60, 6, generator=generator)
    assert (logits.softmax(dim=1) == logits.softmax(dim=1)[:, :1]).all()
    labels, classes = torch.arange(60) % 6, list("abcdef")
    write_predictions(StageFolder(tmp_path), paths=["x"] * 60, labels=labels, logits=logits, classes=classes)
    rows = read(tmp_path / "predictions.csv")
    assert [int(row["correct"]) for row in rows] == (logits.argmax(dim=1) == labels).int().tolist()
    ranked = [[classes.index(row[f"top{k}"]) for k in range(1, 6)] for row in rows]
    assert ranked == rank_classes(logits).tolist() == logits.argsort(dim=1, descending=True)[:, :5].tolist()
    per_class = {row["class"]: int(row["correct"]) for row in read(tmp_path / "per_class.csv")}
    assert per_class == {name: sum(int(r["correct"]) for r in rows if r["true"] == name) for name in classes}


def test_a_full_disk_leaves_the_old_predictions(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = {"paths": ["x", "y"], "labels": torch.tensor([0, 1]), "classes": ["a", "b"]}
    write_predictions(StageFolder(tmp_path), logits=torch.eye(2), **arguments)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(AFAError, match=r"predictions\.csv: cannot be written: No space left on device"):
        write_predictions(StageFolder(tmp_path), logits=1 - torch.eye(2), **arguments)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old
