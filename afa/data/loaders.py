"""The splits of a run, and their batches on a device as a pure function of the seed.

Images come from memory or are decoded by worker processes. Several processes (ranks) can share each batch.
"""

import functools
import multiprocessing.queues
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from afa.data.folders import ImageFolder
from afa.data.images import MakeCanvas, read_canvases
from afa.data.transforms import Draws, Preprocessing, augment, draw_augmentation, draw_order, normalise, test_views
from afa.errors import DataError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        canvases: uint8 (M, ...), see ``data/transforms.py``; None: the images are decoded at each use.
        rows: (N,), the row in ``canvases`` of each of the N images; None: the canvases have the order of the folder.
    """

    folder: ImageFolder
    canvases: np.ndarray | None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Splits:
    """Splits of one repeat.

    Attributes:
        monitor: evaluated after each epoch: held-out training images or, as in the paper's code, the test images.
        selected_on: ``held_out`` or ``test``, the name of ``monitor``.
    """

    train: Split
    monitor: Split
    test: Split
    selected_on: str


class Batch(NamedTuple):
    """Training images, normalised."""

    images: Tensor  # float32 (B, 3, S, S) on the device
    labels: Tensor  # int64 (B,) on the device
    indices: Tensor  # int64 (B,) on the CPU: indices into ``folder.paths``


class TestBatch(NamedTuple):
    """Test images, normalised; the views of one image are consecutive."""

    views: Tensor  # float32 (B * views_per_image, 3, S, S) on the device
    labels: Tensor  # int64 (B,) on the device
    indices: Tensor  # int64 (B,) on the CPU: indices into ``folder.paths``
    views_per_image: int
    full_size: int  # number of views of a full batch; the last batch may have fewer


@dataclass(eq=False)
class _Loader:
    """Loads canvases to a device, from memory or from image files.

    Attributes:
        num_workers: processes that decode images if ``canvases`` is None; 0: this process decodes.
        canvases, rows: see ``Split``.
        rank, world_size: this process and the number of processes.
    """

    folder: ImageFolder
    preprocessing: Preprocessing
    _: KW_ONLY
    batch_size: int
    device: torch.device
    num_workers: int
    canvases: np.ndarray | None = None
    rows: np.ndarray | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        kept = self.canvases if self.rows is None else self.rows
        if kept is not None and len(kept) != len(self.folder):
            raise ValueError(f"{len(kept)} canvases for {len(self.folder)} images")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # a disk cache
            self._canvases = None if self.canvases is None else torch.from_numpy(self.canvases)
        self._rows = torch.arange(len(self.folder)) if self.rows is None else torch.from_numpy(self.rows)
        # More workers than cores would only wait for each other, and torch warns about them.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 256
        self._num_workers = min(self.num_workers, cores)
        self._pinned = self.device.type == "cuda"  # a copy from pageable memory would block until the device is idle
        self._labels = torch.tensor(self.folder.labels, device=self.device)

    def _load(self, batches: Sequence[Tensor], make_canvas: MakeCanvas) -> Iterator[tuple[Tensor, Tensor | None]]:
        """For each batch of indices (B,): canvases on the device, and its (B,) rows in them; None: all rows."""
        if self._canvases is None:
            loader: DataLoader = DataLoader(
                [[self.folder.paths[index] for index in indices.tolist()] for indices in batches],  # type: ignore[arg-type]
                batch_size=None,  # an item is a batch
                collate_fn=functools.partial(_read_batch, make_canvas=make_canvas),
                num_workers=self._num_workers,
                worker_init_fn=_set_up_worker,
                multiprocessing_context=self._worker_context() if self._num_workers else None,
                pin_memory=self._pinned,
                # Otherwise each epoch draws a seed from the global generator, and dropout depends on the cache.
                generator=torch.Generator(),
            )
            # The workers start with these signals blocked: the training process ends them after it has saved.
            mask, batches_read = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS), None
            try:
                try:
                    batches_read = iter(loader)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # raises if a signal has arrived
                for canvases, problems in batches_read:
                    if problems:
                        raise DataError(problems)
                    yield canvases.to(self.device, non_blocking=True), None
            finally:
                # An exception in the iterator keeps it alive.
                getattr(batches_read, "_shutdown_workers", lambda: None)()
        elif self.device.type == "cpu":
            for indices in batches:  # not selected here, as the crop copies the pixels anyway
                yield self._canvases, self._rows[indices]
        else:
            for indices in batches:  # copied as 8-bit pixels: a quarter of the bytes of floats
                shape = (len(indices), *self._canvases.shape[1:])
                buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
                torch.index_select(self._canvases, 0, self._rows[indices], out=buffer)
                yield buffer.to(self.device, non_blocking=True), None

    def _worker_context(self) -> BaseContext | None:
        """The start method of workers on Linux: as forks of this process, or of a server.

        NCCL, which several processes on GPUs have started by then, is not safe to fork.
        """
        if sys.platform != "linux":
            return None
        if self._pinned and self.world_size > 1:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])  # imported once, not by each worker
            return context
        return multiprocessing.get_context("fork")  # from Python 3.14 on, the default is the server


@dataclass(eq=False)
class TrainLoader(_Loader):
    """Batches of an epoch as a pure function of (seed, epoch), including the last, smaller one.

    Neither ``num_workers`` nor ``canvases``, uint8 (M, R, R, 3), changes a batch. The global random state is not used.
    A batch has ``batch_size`` images of all ranks together. As torch's DistributedSampler does, it is padded with its
    own first images until ``world_size`` divides it. Each rank gets a contiguous slice.
    """

    seed: int = field(kw_only=True)

    def __len__(self) -> int:
        return -(-len(self.folder) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on, identical to those of an epoch that began at 0.

        Raises:
            DataError: images cannot be used; one line each.
        """
        count = len(self.folder)
        batches = []
        for batch in draw_order(self.seed, epoch, count).split(self.batch_size)[start:]:
            size = -(-len(batch) // self.world_size)
            batches.append(batch[torch.arange(self.rank * size, (self.rank + 1) * size) % len(batch)])
        if not batches:
            return
        draws = draw_augmentation(self.seed, epoch, count, self.preprocessing)
        # Ordered and copied to the device once, instead of a small copy per batch.
        order, sizes = torch.cat(batches), [len(batch) for batch in batches]
        labels = self._labels[order.to(self.device)].split(sizes)
        ordered = [table[order].to(self.device).split(sizes) for table in draws]
        loaded = zip(self._load(batches, self.preprocessing.train_canvas), labels, batches, *ordered, strict=True)
        for (canvases, rows), own_labels, indices, *own_draws in loaded:
            images = augment(canvases, *Draws(*own_draws), size=self.preprocessing.image_size, rows=rows)
            yield Batch(normalise(images), own_labels, indices)


@dataclass(eq=False)
class TestLoader(_Loader):
    """Batches of test views in the order of the folder. Iteration raises DataError if an image cannot be used.

    Each rank gets a contiguous slice of the folder without padding, which may be empty, in batches of ``batch_size``.
    ``canvases`` is uint8 (M, V, S, S, 3).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.indices = torch.arange(len(self.folder)).tensor_split(self.world_size)[self.rank]
        # Without indices torch would return an empty batch.
        self._batches = self.indices.split(self.batch_size) if len(self.indices) else ()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TestBatch]:
        labels = self._labels[self.indices.to(self.device)].split([len(indices) for indices in self._batches])
        loaded = zip(self._load(self._batches, self.preprocessing.test_canvas), labels, self._batches, strict=True)
        full_size = self.batch_size * self.preprocessing.views
        for (canvases, rows), own_labels, indices in loaded:
            views = test_views(canvases if rows is None else canvases[rows], self.preprocessing.augmentation)
            yield TestBatch(normalise(views), own_labels, indices, self.preprocessing.views, full_size)


def _read_batch(paths: Sequence[Path], make_canvas: MakeCanvas) -> tuple[Tensor, list[str]]:
    """uint8 (B, ...), and one line for each bad image: an error would arrive as the text of a traceback."""
    results = read_canvases(paths, make_canvas)
    problems = [result for result in results if isinstance(result, str)]
    return torch.from_numpy(np.empty(0, np.uint8) if problems else np.stack(results)), problems


def _set_up_worker(worker: int) -> None:
    """Let a worker end if a batch cannot be sent, for example because /dev/shm is full, or with its parent.

    multiprocessing would only print the error, and the training process would wait for the batch for ever. What a
    worker prints is of no use to the user.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # a server may have been started without the mask
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))  # type: ignore
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if sys.platform == "linux":
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End a worker if its parent is killed or, when it exits, sends SIGTERM; not on a SIGTERM to the process group.

    Without it, the parent would wait for ever for workers of a loader that an exception keeps alive. torch notices a
    killed parent only if the worker is a fork of it.
    """
    parent = multiprocessing.parent_process()
    assert parent
    while parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received and received.si_pid == parent.pid:
            break
    os._exit(0)
