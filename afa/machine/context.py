"""The objects that all stages of a run share: device, journal, signals and processes."""

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from afa.machine.signals import Signals
from afa.results.journal import Journal

T = TypeVar("T")


class Processes:
    """A single process. ``training/parallel.py`` overrides each method for several processes.

    Attributes:
        rank: index of this process among ``size`` processes.
        local_size: number of processes on this machine.
    """

    rank = 0
    size = 1
    local_size = 1

    @property
    def is_main(self) -> bool:
        """True for the process that prints and writes."""
        return self.rank == 0

    def on_main(self, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T | None:
        """Call ``function`` in the main process while the others wait; return None in the others."""
        return function(*arguments, **keywords)

    @contextlib.contextmanager
    def main_first(self) -> Generator[None]:
        """Run the body in the main process, then in the others."""
        yield

    @contextlib.contextmanager
    def report_errors_once(self) -> Generator[None]:
        """Print an error that every process raises only once."""
        yield

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        """Maximum of each value over all processes."""
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean of ``values`` over all processes."""
        return values

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The CPU tensors of all processes, in the order of their ranks; their first dimensions may differ."""
        return [tensor]

    def reseed(self, seed: int) -> None:
        """Give each process its own dropout."""

    def wrap(self, learner: T) -> T:
        """Return a learner whose gradients are the mean over all processes."""
        return learner

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy the batch-norm statistics of the main process to the others."""

    def check_counts(self, counts: Mapping[str, int]) -> None:
        """Raise ConfigError if there are fewer items of some kind than processes."""

    def check_equal(self, where: str, *values: int) -> None:
        """Raise AFAError if the processes found different values in a folder that all of them should see."""


SINGLE_PROCESS = Processes()


@dataclass(frozen=True)
class Context:
    """Device, journal, signals and processes of a run."""

    device: torch.device
    journal: Journal
    signals: Signals
    processes: Processes = SINGLE_PROCESS
