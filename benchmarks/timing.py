"""Sides timed in turn, A B A B ..., and compared pair by pair: a shared machine's speed drifts by factors."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from afa.training.environment import environment


class Cost(NamedTuple):
    """Seconds by the clock, and of this process on all processors."""

    wall: float
    cpu: float


def cost(work: Callable[[], Any], device: torch.device) -> Cost:
    """What ``work`` takes, its work on a card included."""
    begun = Cost(time.perf_counter(), time.process_time())
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost(time.perf_counter() - begun.wall, time.process_time() - begun.cpu)


def in_turn(sides: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[Cost]]:
    """Name -> costs, after one round that is not counted."""
    for work in sides.values():
        cost(work, device)
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            costs[name].append(cost(work, device))
    return costs


def ratio(slow: list[Cost], fast: list[Cost]) -> Cost:
    """Medians of ``slow`` over ``fast``, pair by pair."""
    pairs = list(zip(slow, fast, strict=True))
    return Cost(
        statistics.median(s.wall / f.wall for s, f in pairs), statistics.median(s.cpu / f.cpu for s, f in pairs)
    )


def median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(c.wall for c in costs), statistics.median(c.cpu for c in costs))


def write(path: Path, device: torch.device, **figures: Any) -> None:
    """JSON, with the machine and the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"environment": environment(device, " ".join(sys.argv)), "threads": torch.get_num_threads(), **figures}
    path.write_text(json.dumps(told, indent=1) + "\n")
    print(f"written to {path}")
