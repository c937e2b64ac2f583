"""Whether two runs are the same: weights, optimiser, logs, scalars."""

import functools
import re
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afa.training.checkpoint import Checkpoint, load_checkpoint

CHECKPOINTS = Path("check_point")


def told(run: Path) -> list[str]:
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


def assert_the_same(run: Path, whole: Path, *, log: bool = True) -> None:
    """Weights, optimiser, logs and scalars of every stage."""
    stages = sorted(path.parent.relative_to(whole) for path in whole.rglob("log.txt"))
    assert stages
    for stage in stages:
        one, other = run / stage, whole / stage
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
    assert not log or told(run) == told(whole)
