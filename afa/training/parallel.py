"""Training in several processes, started by torchrun: everything that uses torch.distributed.

Each process holds the network and trains on its own images of every batch. DistributedDataParallel averages the
gradients. The main process writes all files.
"""

import atexit
import contextlib
import hashlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from afa.errors import AFAError, ConfigError, one_line
from afa.machine.context import SINGLE_PROCESS, Processes
from afa.machine.launch import Launch
from afa.machine.signals import Program, StoppedError
from afa.training.engine import Learner

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ParallelLearner(Learner):
    """A learner whose forward pass and losses go through DistributedDataParallel."""

    parallel_target: nn.Module
    parallel_objective: nn.Module

    @property
    def forward(self) -> nn.Module:
        return self.parallel_target

    @property
    def losses(self) -> nn.Module:
        return self.parallel_objective


class DistributedProcesses(Processes):
    """One of several processes."""

    def __init__(self, launch: Launch, store: dist.Store) -> None:
        self.rank, self.size, self.local_size = launch.rank, launch.size, launch.local_size
        self._store = store

    def on_main(self, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T | None:
        with self.main_first():
            return function(*arguments, **keywords) if self.is_main else None

    @contextlib.contextmanager
    def main_first(self) -> Generator[None]:
        failed = self.is_main
        try:
            if not self.is_main and self.all_reduce_max(0) != (0,):
                raise AFAError([])  # the main process prints the reason
            yield
            failed = False
        finally:
            if self.is_main:
                self.all_reduce_max(failed)

    @contextlib.contextmanager
    def report_errors_once(self) -> Generator[None]:
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            _leave_at_once(error)
            if isinstance(error, AFAError | StoppedError):
                if not self._is_first_to_fail():
                    error.lines = []
                raise
            line = communication_error(error)
            if not line:
                raise
            raise AFAError([line] if self._is_first_to_fail() else []) from None

    def _is_first_to_fail(self) -> bool:
        try:
            return self._store.add("failed", 1) == 1
        except RuntimeError:  # the process that held the store has ended, with a message of its own
            return False

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        largest = torch.tensor([int(value) for value in values])
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return tuple(largest.tolist())

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, tensor: Tensor) -> list[Tensor]:
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, tensor)
        return gathered

    def reseed(self, seed: int) -> None:
        if not self.is_main:
            number = hashlib.sha256(f"process/{seed}/{self.rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(number[:8], "big") >> 1)

    def wrap(self, learner: T) -> T:
        own = cast(Learner, learner)
        # DistributedDataParallel waits for the gradient of every parameter that requires one.
        for parameter in own.target.idle_parameters():
            parameter.requires_grad_(False)
        own.objective.summed_factor = float(self.size)
        target, objective = (
            DistributedDataParallel(module, gradient_as_bucket_view=True)
            if any(parameter.requires_grad for parameter in module.parameters())
            else module
            for module in (own.target, own.objective)
        )
        values = {field.name: getattr(own, field.name) for field in fields(Learner)}
        return cast(T, ParallelLearner(**values, parallel_target=target, parallel_objective=objective))

    def broadcast_buffers(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)

    def check_counts(self, counts: Mapping[str, int]) -> None:
        few = [f"{what}: {count}" for what, count in counts.items() if count < self.size]
        if few:
            raise ConfigError(f"{self.size} processes, but {', '.join(few)}: each process needs one; start fewer")

    def check_equal(self, where: str, *values: int) -> None:
        pairs = (*values, *(-value for value in values))
        if self.all_reduce_max(*pairs) != pairs:
            raise AFAError(f"{where}: not the same for all processes; use a folder that all machines share")


def join_processes(launch: Launch, device: torch.device, *, sync_bn: bool) -> Processes:
    """Connect to the other processes that torchrun started; a single process returns at once.

    Raises:
        ConfigError: ``sync_bn`` without GPUs.
        AFAError: the other processes cannot be reached.
    """
    if launch.size == 1:
        return SINGLE_PROCESS
    if sync_bn and device.type != "cuda":
        raise ConfigError("sync_bn: torch supports it for CUDA GPUs only; set sync_bn=false")
    try:
        store, rank, size = next(rendezvous("env://"))
        if not dist.is_initialized():
            # CPU tensors go through gloo also on a GPU machine, so that no step waits for the GPU.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
            # Raised for 1x1 convolutions in channels_last; copying their gradients costs next to nothing.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            atexit.register(_leave)
    except (RuntimeError, ValueError) as error:
        raise AFAError(f"torchrun: the other processes cannot be reached: {one_line(error)}") from None
    return DistributedProcesses(launch, store)


def communication_error(error: BaseException) -> str:
    """What an error of torch.distributed means for the user, on one line; empty for other errors."""
    text = str(error).lower()
    if not isinstance(error, RuntimeError):
        return ""
    if "gloo" in text and any(word in text for word in ("closed by peer", "reset by peer", "broken pipe")):
        return "another process of this run ended without an error message (killed?); the same command resumes"
    if not (isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection"))):
        return ""
    cause = RuntimeError(str(error).rpartition("Last error:")[2])  # NCCL's own message, which is the last one
    return f"the processes of this run cannot communicate: {one_line(cause)}; the same command resumes"


def _leave() -> None:
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()


def _leave_at_once(error: BaseException) -> None:
    """After an error, let the command line end without ``_leave``: NCCL would wait for processes that do not come.

    A Python program that handles the error continues.
    """
    atexit.unregister(_leave)
    if Program.is_running:
        status = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        atexit.register(_exit, getattr(error, "exit_status", status))  # called first, as it is registered last


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)
