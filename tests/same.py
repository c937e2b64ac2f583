"""Whether two runs are the same: weights, optimiser, logs, scalars, results and tables."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afa.training.checkpoint import Checkpoint, load_checkpoint

CHECKPOINTS = Path("check_point")


def logged_lines(run: Path) -> list[str]:
    """What ``experiment.log`` says of steps and epochs, without times and speeds."""
    lines = [line[21:] for line in (run / "experiment.log").read_text().splitlines()]
    return [re.sub(r"[,:] [\d.]+ images/s", "", line) for line in lines if re.match(r"A[SC]T epoch", line)]


@functools.lru_cache(maxsize=8)
def unchanging(path: Path) -> Checkpoint:
    """Read once: an undisturbed run's."""
    return load_checkpoint(path)


def scalars(stage: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(stage / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def figures(path: Path) -> Any:
    """Content of ``result.json`` or ``stage.json`` without times, speeds and what names the run."""

    def of(values: Any) -> Any:
        own = ("run", "environment", "table", "images_per_second", "seconds", "folder", "start")
        if isinstance(values, dict):
            return {name: of(value) for name, value in values.items() if name not in own}
        return [of(value) for value in values] if isinstance(values, list) else values

    return of(json.loads(path.read_text()))


def table(path: Path) -> str:
    """A CSV file without the folders of the images."""
    return re.sub("^[^,]*/", "", path.read_text(), flags=re.MULTILINE)


def assert_the_same(run: Path, expected: Path, *, log: bool = True) -> None:
    """Weights, optimiser, logs, scalars, results and tables of every stage, and the results of the run."""
    stages = sorted(path.parent.relative_to(expected) for path in expected.rglob("log.txt"))
    assert stages
    for stage in stages:
        one, other = run / stage, expected / stage
        assert (one / "log.txt").read_bytes() == (other / "log.txt").read_bytes()
        assert scalars(one) == scalars(other)
        for name in ("best.pth", "last.pth"):
            first, second = load_checkpoint(one / CHECKPOINTS / name), unchanging(other / CHECKPOINTS / name)
            pairs = [(first.model, second.model), (first.attention, second.attention)]
            if name == "last.pth":
                states = [c.training["optimizer"]["state"] for c in (first, second)]
                pairs += [(states[0][key], states[1][key]) for key in states[1]]
                assert torch.equal(first.training["generator"], second.training["generator"])
            for mine, theirs in pairs:
                assert list(mine) == list(theirs)
                assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert not log or logged_lines(run) == logged_lines(expected)
    for path in sorted(path.relative_to(expected) for name in ("*.csv", "*.json") for path in expected.rglob(name)):
        read = table if path.suffix == ".csv" else figures
        assert read(run / path) == read(expected / path), path
