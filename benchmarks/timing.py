"""Time several sides in turn, A B A B ..., and compare them pair by pair: the speed of a shared machine drifts."""

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

from afa.machine.device import describe_environment

Work = Callable[[], object]
CPU = torch.device("cpu")


class Cost(NamedTuple):
    """Wall-clock seconds, and CPU seconds of this process and of its children that have ended."""

    wall: float
    cpu: float


def _now() -> Cost:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Cost(time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in used))


def cost(work: Work, device: torch.device = CPU, rounds: int = 1) -> Cost:
    """Mean cost of ``rounds`` calls of ``work``, including its work on a GPU."""
    start = _now()
    for _ in range(rounds):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    end = _now()
    return Cost((end.wall - start.wall) / rounds, (end.cpu - start.cpu) / rounds)


class Side:
    """Work in a separate process, which waits while other sides are timed. A call does the work and returns its cost.

    The state of one process (memory taken from the system, threads) therefore does not affect another
    side, and each side has its own peak memory. Use it as a context manager.

    Args:
        build: returns the work; a function at module level, because the process has to import it.
        arguments: of ``build``.
        rounds: how often one call does the work.
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
        """Peak memory: of the entire process on a CPU, allocated by torch on a GPU."""
        return self._process.submit(_peak_gib, self._device).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


_prepared: list[Work] = []
"""The work of this process, if it belongs to a side."""


def _prepare(build: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    set_start_method(
        None, force=True
    )  # a DataLoader must start its processes in the default way, not as this one was started
    _prepared.append(build(*arguments))


def _cost_of_prepared(device: torch.device, rounds: int) -> Cost:
    return cost(_prepared[0], device, rounds)


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_turn(sides: Mapping[str, Callable[[], Cost]], repeats: int, warm_up: int = 1) -> dict[str, list[Cost]]:
    """Name of the side -> its costs in ``repeats`` rounds, after ``warm_up`` rounds that do not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for round_ in range(warm_up + repeats):
        for name, side in sides.items():
            taken = side()
            if round_ >= warm_up:
                costs[name].append(taken)
    return costs


def ratio(slow: list[Cost], fast: list[Cost]) -> Cost:
    """Medians of the ratios ``slow`` / ``fast``, computed pair by pair."""
    pairs = list(zip(slow, fast, strict=True))
    return Cost(
        statistics.median(s.wall / f.wall for s, f in pairs), statistics.median(s.cpu / f.cpu for s, f in pairs)
    )


def median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(c.wall for c in costs), statistics.median(c.cpu for c in costs))


def against_textbook(costs: Mapping[str, list[Cost]], images: int) -> dict[str, float]:
    """Wall-clock speeds and ratios of the sides ``textbook`` and ``ours``; a round processes ``images`` images."""
    times = ratio(costs["textbook"], costs["ours"])
    return {
        "textbook_images_per_second": images / median(costs["textbook"]).wall,
        "images_per_second": images / median(costs["ours"]).wall,
        "times_textbook_wall": times.wall,
        "times_textbook_cpu": times.cpu,
    }


def write(path: Path, device: torch.device = CPU, **results: Any) -> None:
    """Write the results as JSON, with the machine and the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "environment": describe_environment(device, " ".join(sys.argv)),
        "threads": torch.get_num_threads(),
        **results,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}")
