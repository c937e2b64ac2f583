"""Sides timed in turn, A B A B ..., and compared pair by pair: a shared machine's speed drifts by factors."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from afa.training.environment import environment

Work = Callable[[], object]
CPU = torch.device("cpu")


class Cost(NamedTuple):
    """Seconds by the clock, and of all processors: of this process and of those that it started and that have ended."""

    wall: float
    cpu: float


def _now() -> Cost:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Cost(time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in used))


def cost(work: Work, device: torch.device = CPU, rounds: int = 1) -> Cost:
    """What ``work`` takes, its work on a card included; the mean of ``rounds``."""
    begun = _now()
    for _ in range(rounds):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    ended = _now()
    return Cost((ended.wall - begun.wall) / rounds, (ended.cpu - begun.cpu) / rounds)


class Side:
    """Work in a process of its own, which waits while others are timed; called, it works once and says what it took.

    So what one side does to its process (how it takes memory from the system, its threads) does not help the other, and
    its peak memory is its own. To be closed at the end, as a ``with`` block does.

    Args:
        build: returns the work; a function of a module, as the process has to import it.
        arguments: of ``build``.
        rounds: how often the work is done a call.
    """

    def __init__(
        self, build: Callable[..., Work], *arguments: Any, device: torch.device = CPU, rounds: int = 1
    ) -> None:
        self._process = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_prepare, initargs=(build, arguments)
        )
        self._device, self._rounds = device, rounds

    def __call__(self) -> Cost:
        return self._process.submit(_cost_of_prepared, self._device, self._rounds).result()

    def peak_gib(self) -> float:
        """Memory so far at most: all of the process on a CPU, what torch took on a card."""
        return self._process.submit(_peak_gib, self._device).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


_prepared: list[Work] = []
"""The work of this process, where it is a side's."""


def _prepare(build: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    set_start_method(None, force=True)  # a DataLoader's processes start as they would without us, not as this one did
    _prepared.append(build(*arguments))


def _cost_of_prepared(device: torch.device, rounds: int) -> Cost:
    return cost(_prepared[0], device, rounds)


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_turn(sides: Mapping[str, Callable[[], Cost]], repeats: int, warm_up: int = 1) -> dict[str, list[Cost]]:
    """Name -> costs, after ``warm_up`` rounds that are not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for round_ in range(warm_up + repeats):
        for name, side in sides.items():
            taken = side()
            if round_ >= warm_up:
                costs[name].append(taken)
    return costs


def ratio(slow: list[Cost], fast: list[Cost]) -> Cost:
    """Medians of ``slow`` over ``fast``, pair by pair."""
    pairs = list(zip(slow, fast, strict=True))
    return Cost(
        statistics.median(s.wall / f.wall for s, f in pairs), statistics.median(s.cpu / f.cpu for s, f in pairs)
    )


def median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(c.wall for c in costs), statistics.median(c.cpu for c in costs))


def against_textbook(costs: Mapping[str, list[Cost]], images: int) -> dict[str, float]:
    """Speeds by the clock and ratios of the sides ``textbook`` and ``ours``, which take ``images`` a round."""
    times = ratio(costs["textbook"], costs["ours"])
    return {
        "textbook_images_per_second": images / median(costs["textbook"]).wall,
        "images_per_second": images / median(costs["ours"]).wall,
        "times_textbook_wall": times.wall,
        "times_textbook_cpu": times.cpu,
    }


def write(path: Path, device: torch.device = CPU, **figures: Any) -> None:
    """JSON, with the machine and the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"environment": environment(device, " ".join(sys.argv)), "threads": torch.get_num_threads(), **figures}
    path.write_text(json.dumps(told, indent=1) + "\n")
    print(f"written to {path}")
