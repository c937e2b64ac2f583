"""The splits of a run, and their batches on a device as a pure function of the seed.

Images come from memory or are decoded by worker processes. Several processes (ranks) can share each batch.
"""

import functools
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from afa.data.folders import ImageFolder
from afa.data.images import MakeCanvas, read_canvas
from afa.data.transforms import Draws, Preprocessing, augment, draw_augmentation, draw_order, normalise, test_views
from afa.errors import DataError


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        canvases: uint8 (M, ...), see ``data/transforms.py``; None: the images are decoded at each use.
        rows: (N,), the row in ``canvases`` of each of the N images; None: they have the order of the folder.
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
    indices: Tensor  # int64 (B,) on the CPU: indices in the folder


class TestBatch(NamedTuple):
    """Test images, normalised; the views of one image are consecutive."""

    views: Tensor  # float32 (B * views_per_image, 3, S, S) on the device
    labels: Tensor  # int64 (B,) on the device
    indices: Tensor  # int64 (B,) on the CPU: indices in the folder
    views_per_image: int
    full_size: int  # number of views of a full batch; the last batch may have fewer


class TrainLoader:
    """Batches of an epoch as a pure function of (seed, epoch), including the last, smaller one.

    Neither ``num_workers`` nor ``canvases`` changes a batch. The global random state is not used.

    Args:
        folder: the images.
        preprocessing: augmentation and input size.
        batch_size: images per batch, of all ranks together.
        seed: seed of order and augmentation.
        device: device of the batches.
        num_workers: processes that decode images if ``canvases`` is None; 0: this process decodes.
        canvases: uint8 (M, R, R, 3), decoded images, or None to decode at each use.
        rows: (N,), the row in ``canvases`` of each image; None: they have the order of the folder.
        rank, world_size: this process and the number of processes. As torch's DistributedSampler does, a batch is
            padded with its own first images until ``world_size`` divides it. Each rank gets a contiguous slice.
    """

    def __init__(
        self,
        folder: ImageFolder,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        num_workers: int,
        canvases: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.folder = folder
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.seed = seed
        self._rank, self._world_size = rank, world_size
        self._source = _Source(folder.paths, preprocessing.train_canvas, canvases, num_workers, device, rows)
        self._labels = torch.tensor(folder.labels, device=device)

    def __len__(self) -> int:
        return -(-len(self.folder) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on, identical to those of an epoch that began at 0.

        Raises:
            DataError: images cannot be used; one line each.
        """
        count, device = len(self.folder), self._source.device
        batches = []
        for batch in draw_order(self.seed, epoch, count).split(self.batch_size)[start:]:
            size = -(-len(batch) // self._world_size)
            batches.append(batch[torch.arange(self._rank * size, (self._rank + 1) * size) % len(batch)])
        if not batches:
            return
        draws = draw_augmentation(self.seed, epoch, count, self.preprocessing)
        # Ordered and copied to the device once, instead of a small copy per batch.
        order, sizes = torch.cat(batches), [len(batch) for batch in batches]
        labels = self._labels[order.to(device)].split(sizes)
        ordered = [table[order].to(device).split(sizes) for table in draws]
        loaded = zip(self._source.load(batches), labels, batches, *ordered, strict=True)
        for (canvases, rows), own_labels, indices, *own_draws in loaded:
            images = augment(canvases, *Draws(*own_draws), size=self.preprocessing.image_size, rows=rows)
            yield Batch(normalise(images), own_labels, indices)


class TestLoader:
    """Batches of test views in the order of the folder; arguments as in ``TrainLoader``.

    Each rank gets a contiguous slice of the folder without padding, which may be empty.
    ``canvases`` is uint8 (N, V, S, S, 3). Iteration raises DataError if an image cannot be used.
    """

    def __init__(
        self,
        folder: ImageFolder,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        device: torch.device,
        num_workers: int,
        canvases: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.folder = folder
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.indices = torch.arange(len(folder)).tensor_split(world_size)[rank]
        self._batches = self.indices.split(batch_size) if len(self.indices) else ()  # torch would return an empty batch
        self._source = _Source(folder.paths, preprocessing.test_canvas, canvases, num_workers, device)
        self._labels = torch.tensor(folder.labels, device=device)[self.indices.to(device)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TestBatch]:
        labels = self._labels.split([len(indices) for indices in self._batches])
        loaded = zip(self._source.load(self._batches), labels, self._batches, strict=True)
        full_size = self.batch_size * self.preprocessing.views
        for (canvases, rows), own_labels, indices in loaded:
            views = test_views(canvases if rows is None else canvases[rows], self.preprocessing.augmentation)
            yield TestBatch(normalise(views), own_labels, indices, self.preprocessing.views, full_size)


class _Source:
    """Canvases on a device, from memory or from image files."""

    def __init__(
        self,
        paths: Sequence[Path],
        make_canvas: MakeCanvas,
        canvases: np.ndarray | None,
        num_workers: int,
        device: torch.device,
        rows: np.ndarray | None = None,
    ) -> None:
        kept = canvases if rows is None else rows
        if kept is not None and len(kept) != len(paths):
            raise ValueError(f"{len(kept)} canvases for {len(paths)} images")
        self.device, self._paths, self._make_canvas = device, paths, make_canvas
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # a disk cache
            self._canvases = None if canvases is None else torch.from_numpy(canvases)
        self._rows = torch.arange(len(paths)) if rows is None else torch.from_numpy(rows)
        # More workers than cores would only wait for each other, and torch warns about them.
        self._num_workers = min(num_workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 256)
        self._pinned = device.type == "cuda"  # a copy from pageable memory would block until the device is idle

    def load(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """For each batch of indices (B,): canvases on the device, and the rows (B,) of its images; None: all rows."""
        if self._canvases is None:
            loader: DataLoader = DataLoader(
                [[self._paths[index] for index in indices.tolist()] for indices in batches],  # type: ignore[arg-type]
                batch_size=None,  # an item is a batch
                collate_fn=functools.partial(_read_batch, make_canvas=self._make_canvas),
                num_workers=self._num_workers,
                worker_init_fn=_ignore_signals,
                # Otherwise, from Python 3.14 on, the workers are children of a server and outlive a killed run.
                multiprocessing_context="fork" if self._num_workers and sys.platform == "linux" else None,
                pin_memory=self._pinned,
                # Otherwise each epoch draws a seed from the global generator, and dropout depends on the cache.
                generator=torch.Generator(),
            )
            for canvases, problems in loader:
                if problems:
                    raise DataError(problems)
                yield canvases.to(self.device, non_blocking=True), None
        elif self.device.type == "cpu":
            for indices in batches:  # not selected here, as the crop copies the pixels anyway
                yield self._canvases, self._rows[indices]
        else:
            for indices in batches:  # copied as 8-bit pixels: a quarter of the bytes of floats
                shape = (len(indices), *self._canvases.shape[1:])
                buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
                torch.index_select(self._canvases, 0, self._rows[indices], out=buffer)
                yield buffer.to(self.device, non_blocking=True), None


def _read_batch(paths: Sequence[Path], make_canvas: MakeCanvas) -> tuple[Tensor, list[str]]:
    """uint8 (B, ...), and one line for each bad image."""
    canvases, problems = [], []
    for path in paths:
        try:
            canvases.append(read_canvas(path, make_canvas))
        except DataError as error:  # raised in a worker, it would arrive as the text of a traceback
            problems += error.lines
    return torch.from_numpy(np.empty(0, np.uint8) if problems else np.stack(canvases)), problems


def _ignore_signals(worker: int) -> None:
    """Leave signals to the training process: it ends its workers after saving."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
