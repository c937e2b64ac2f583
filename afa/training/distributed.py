"""One run in several processes: what they share, and who writes.

``World`` is one process alone: each of its methods does nothing, or the plain thing.
``Processes`` is one of several under torchrun. Each holds the whole network and a part of
each batch; what is written, the first of them writes. Losses and gradients are those
of the whole batch: every process weights its own by its share of the images.
"""

import atexit
import contextlib
import hashlib
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from afa.config.launch import Launch
from afa.errors import AFAError, ConfigError, one_line
from afa.method.objectives import Losses, Objective
from afa.networks.features import FeatureNetwork
from afa.training.precision import Precision

T = TypeVar("T")
Forward = Callable[[Tensor, Tensor, list[Tensor], float], tuple[Tensor, Losses]]


def forward_both(
    target: FeatureNetwork,
    objective: Objective,
    precision: Precision,
    images: Tensor,
    labels: Tensor,
    source: list[Tensor],
    share: float,
) -> tuple[Tensor, Losses]:
    """(B, 3, S, S), (B,), the source's maps, and which part of its batch this is -> (B, K) logits and the losses."""
    with precision.autocast():
        logits, maps = target(images)
    logits, maps = precision.upcast(logits), [precision.upcast(map_) for map_ in maps]
    return logits, objective(logits, labels, source, maps, share)


class _Joint(nn.Module):
    """``forward_both`` as one module that holds all that trains."""

    def __init__(self, target: FeatureNetwork, objective: Objective, precision: Precision) -> None:
        super().__init__()
        self.target, self.objective, self._precision = target, objective, precision

    def forward(self, images: Tensor, labels: Tensor, source: list[Tensor], share: float) -> tuple[Tensor, Losses]:
        return forward_both(self.target, self.objective, self._precision, images, labels, source, share)


class World:
    """One process."""

    part: tuple[int, int] = (0, 1)
    """Which part of each batch this process takes, of how many."""
    local_size = 1
    """Processes on this machine."""

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.part[1]

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.part[0] == 0

    def lead(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T | None:
        """Have the leader call it, and all wait until it has; None for the others."""
        return function(*arguments, **named)

    @contextlib.contextmanager
    def leader_first(self) -> Generator[None]:
        """What all do, the leader before the others."""
        yield

    @contextlib.contextmanager
    def failing_once(self) -> Generator[None]:
        """An error of all processes is said by one of them."""
        yield

    def largest(self, *values: int) -> tuple[int, ...]:
        """The largest of each value over all processes."""
        return values

    def mean(self, values: Tensor, share: float) -> Tensor:
        """Figures of a whole batch from those of each process's part."""
        return values

    def gradient(self, loss: Tensor, share: float) -> Tensor | None:
        """What the loss of this process's part counts in the gradient; None: once."""
        return None

    def fill(self, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """What a process goes through the networks with, which has no image of a batch (``share`` 0)."""
        return images, labels

    def concatenate(self, rows: Tensor) -> Tensor:
        """All processes' rows, one process after the other, on the CPU."""
        return rows

    def others(self, state: Tensor) -> list[Tensor]:
        """The other processes' tensors, of the same shape, on the CPU."""
        return []

    def level(self, network: nn.Module) -> None:
        """Give all processes the leader's batch-norm statistics."""

    def reseed(self, seed: int) -> None:
        """Give each process dropout of its own."""

    def forward_of(self, target: FeatureNetwork, objective: Objective, precision: Precision) -> Forward | None:
        """``forward_both`` of these, with gradients that are those of all processes; None: it itself."""
        return None

    def check_enough(self, counts: Mapping[str, int]) -> None:
        """Raises ConfigError where there is less of something than there are processes."""

    def check_same(self, where: str, *values: int) -> None:
        """Raises AFAError where the processes found different things in a folder that they all should see."""


ALONE = World()


class Processes(World):
    """One process of several."""

    def __init__(self, launch: Launch, store: dist.Store, *, sync_bn: bool) -> None:
        self.part = (launch.rank, launch.size)
        self.local_size = launch.local_size
        self._store, self._sync_bn = store, sync_bn

    def lead(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T | None:
        result = None
        with self.leader_first():
            if self.leads:
                result = function(*arguments, **named)
        return result

    @contextlib.contextmanager
    def leader_first(self) -> Generator[None]:
        failed = self.leads
        try:
            if not self.leads:
                self._wait_for_leader()
            yield
            failed = False
        finally:
            if self.leads:
                self.largest(failed)

    def _wait_for_leader(self) -> None:
        (failed,) = self.largest(0)
        if failed:
            raise AFAError([])  # the leader says why

    @contextlib.contextmanager
    def failing_once(self) -> Generator[None]:
        try:
            yield
        except AFAError as error:
            if not self._is_first_to_fail():
                error.lines = []
            raise
        except RuntimeError as error:
            if not _is_lost_contact(error):
                raise
            first = "another process of this run ended without a word (killed?); the same command goes on"
            raise AFAError([first] if self._is_first_to_fail() else []) from None

    def _is_first_to_fail(self) -> bool:
        try:
            return self._store.add("failed", 1) == 1
        except RuntimeError:  # the store ended with its process, which has spoken
            return False

    def largest(self, *values: int) -> tuple[int, ...]:
        largest = torch.tensor([int(value) for value in values])
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return tuple(largest.tolist())

    def mean(self, values: Tensor, share: float) -> Tensor:
        # Of no image at all the mean is no number; and a product with 0 would keep it.
        weighted = values * share if share else torch.zeros_like(values)
        dist.all_reduce(weighted)
        return weighted

    def gradient(self, loss: Tensor, share: float) -> Tensor | None:
        # DistributedDataParallel takes the mean over the processes; the whole batch is the sum over their shares.
        return torch.full_like(loss, self.size * share)

    def fill(self, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
        if share:
            return images, labels
        if self._sync_bn:
            return images[:0], labels[:0]
        return images.expand(2, -1, -1, -1), labels.expand(2)  # one image may be too few for batch-norm

    def concatenate(self, rows: Tensor) -> Tensor:
        (most,) = self.largest(len(rows))
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        counts = [int(count) for count in self._gather(torch.tensor([len(rows)]))]
        return torch.cat([own[:count] for own, count in zip(self._gather(padded), counts, strict=True)])

    def others(self, state: Tensor) -> list[Tensor]:
        return self._gather(state)[1:]

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        """All processes' tensors, of one shape and on the CPU."""
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(gathered, tensor.contiguous())
        return gathered

    def level(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)

    def reseed(self, seed: int) -> None:
        if not self.leads:
            digest = hashlib.sha256(f"process/{seed}/{self.part[0]}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def forward_of(self, target: FeatureNetwork, objective: Objective, precision: Precision) -> Forward:
        return DistributedDataParallel(
            _Joint(target, objective, precision),
            # Not all of a network need be on the way to its logits: Inception's auxiliary classifier.
            find_unused_parameters=target.has_idle_parameters(),
            gradient_as_bucket_view=True,
        )

    def check_enough(self, counts: Mapping[str, int]) -> None:
        few = [f"{what}: {count}" for what, count in counts.items() if count < self.size]
        if few:
            raise ConfigError(f"{self.size} processes, but {', '.join(few)}: each process needs one; start fewer")

    def check_same(self, where: str, *values: int) -> None:
        largest = self.largest(*values, *(-value for value in values))
        if largest != (*values, *(-value for value in values)):
            raise AFAError(f"{where}: not the same for all processes; it must be a folder that all machines share")


def _is_lost_contact(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection"))


def join(launch: Launch, device: torch.device, *, sync_bn: bool) -> World:
    """Meet the other processes that torchrun started; alone, there is nobody to meet.

    Raises:
        AFAError: they cannot be reached.
    """
    if launch.size == 1:
        return ALONE
    try:
        store, rank, size = next(rendezvous("env://"))
        if not dist.is_initialized():
            # gloo for what is on the CPU also beside a card: no step waits for the card then.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
            # Of 1x1 convolutions in channels_last; their gradients are copied, which costs next to nothing.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            atexit.register(_leave)
    except (RuntimeError, ValueError) as error:
        raise AFAError(f"torchrun: the other processes cannot be reached: {one_line(error)}") from None
    return Processes(launch, store, sync_bn=sync_bn)


def _leave() -> None:
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
