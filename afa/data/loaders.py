"""Seeded batches on a device: canvases from memory or decoded by worker processes, the random part on the device."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from afa.data.folders import ImageFolder
from afa.data.images import read_canvas
from afa.data.transforms import Draws, Preprocessing, augment, draw_augmentation, draw_order, normalise, test_views
from afa.errors import DataError


class Batch(NamedTuple):
    """Training images, normalised."""

    images: Tensor  # float32 (B, 3, S, S) on the device
    labels: Tensor  # int64 (B,) on the device
    indices: Tensor  # int64 on the CPU: places in the folder, of the whole batch where it is shared by processes
    share: float = 1.0  # part of the batch that is here; 0: none of it, and one image stands in


class TestBatch(NamedTuple):
    """Test images, normalised; the views of one image come one after the other."""

    views: Tensor  # float32 (B * views_per_image, 3, S, S) on the device
    labels: Tensor  # int64 (B,) on the device
    indices: Tensor  # int64 (B,) on the CPU: places in the folder
    views_per_image: int
    full_size: int  # views of a whole batch; the last may have fewer


class TrainLoader:
    """Batches of an epoch as a pure function of (seed, epoch), the last and smaller one included.

    Args:
        folder: the images.
        preprocessing: mode and size of the input.
        batch_size: images a batch.
        seed: of the order and of the augmentation.
        device: where the batches arrive.
        num_workers: processes that decode, where ``canvases`` is None; 0: this process.
        canvases: uint8 (N, R, R, 3) of all images, or None to decode at each use.
        rows: (N,) the row in ``canvases`` of each image; None: in the order of the folder.
        part: ``(k, n)``: of each batch only the k-th of n parts, counted from 0.

    Neither ``num_workers`` nor ``canvases`` changes a batch, nor is the global random state touched.
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
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.folder = folder
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.seed = seed
        self._part = part
        self._source = _Source(folder.paths, preprocessing.train_canvas, canvases, num_workers, device, rows)
        self._labels = torch.tensor(folder.labels, device=device)

    def __len__(self) -> int:
        return -(-len(self.folder) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from batch ``start`` on, the same as in an epoch that began at 0.

        Raises:
            DataError: an image cannot be used; a line each.
        """
        count, device = len(self.folder), self._source.device
        batches = draw_order(self.seed, epoch, count).split(self.batch_size)[start:]
        if not batches:
            return
        draws = draw_augmentation(self.seed, epoch, count, self.preprocessing)
        rank, size = self._part
        shares = [len(batch.tensor_split(size)[rank]) / len(batch) for batch in batches]
        here = [
            batch.tensor_split(size)[rank] if share else batch[:1] for batch, share in zip(batches, shares, strict=True)
        ]
        # In the order of the epoch and on the device once, rather than a small copy for each batch.
        order, sizes = torch.cat(here), [len(own) for own in here]
        labels = self._labels[order.to(device)].split(sizes)
        ordered = [table[order].to(device).split(sizes) for table in draws]
        parts = zip(self._source.load(here), labels, batches, shares, *ordered, strict=True)
        for (canvases, rows), own, batch, share, *entries in parts:
            images = augment(canvases, *Draws(*entries), size=self.preprocessing.image_size, rows=rows)
            yield Batch(normalise(images), own, batch, share)


class TestLoader:
    """Batches of the test views, in the order of the folder; arguments as in ``TrainLoader``.

    Of several parts, the first holds the first images of the folder, and so on.
    ``canvases``: uint8 (N, V, S, S, 3). Iterating raises DataError for an image that cannot be used.
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
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.folder = folder
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.indices = torch.arange(len(folder)).tensor_split(part[1])[part[0]]
        self._source = _Source(folder.paths, preprocessing.test_canvas, canvases, num_workers, device)
        self._labels = torch.tensor(folder.labels, device=device)[self.indices.to(device)]

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[TestBatch]:
        batches = self.indices.split(self.batch_size)
        labels = self._labels.split(self.batch_size)
        for (canvases, rows), own, indices in zip(self._source.load(batches), labels, batches, strict=True):
            views = test_views(canvases if rows is None else canvases[rows], self.preprocessing.augmentation)
            full_size = self.batch_size * self.preprocessing.views
            yield TestBatch(normalise(views), own, indices, self.preprocessing.views, full_size)


class _Source:
    """Canvases of given batches on a device, from memory or from the files."""

    def __init__(
        self,
        paths: Sequence[Path],
        make_canvas: Callable[[Image.Image], np.ndarray],
        canvases: np.ndarray | None,
        num_workers: int,
        device: torch.device,
        rows: np.ndarray | None = None,
    ) -> None:
        kept = canvases if rows is None else rows
        if kept is not None and len(kept) != len(paths):
            raise ValueError(f"{len(kept)} canvases of {len(paths)} images")
        self.device = device
        self._files = _CanvasFiles(paths, make_canvas)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # a file's pixels
            self._canvases = None if canvases is None else torch.from_numpy(canvases)
        self._rows = torch.arange(len(paths)) if rows is None else torch.from_numpy(rows)
        # More than there are cores would only wait for each other, and torch warns of it.
        self._num_workers = min(num_workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 256)
        self._pinned = device.type == "cuda"  # a copy from ordinary memory would wait for the device

    def load(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """A batch of indices -> uint8 (N, ...) canvases on the device, and the (B,) rows of its own, if not all."""
        if self._canvases is not None and self.device.type == "cpu":
            for indices in batches:  # where they lie: the crop copies them anyway
                yield self._canvases, self._rows[indices]
            return
        # 8-bit pixels travel: a quarter of the bytes.
        loaded = self._from_files(batches) if self._canvases is None else self._from_memory(self._canvases, batches)
        for canvases in loaded:
            yield canvases.to(self.device, non_blocking=True), None

    def _from_memory(self, canvases: Tensor, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for indices in batches:
            buffer = torch.empty((len(indices), *canvases.shape[1:]), dtype=torch.uint8, pin_memory=self._pinned)
            yield torch.index_select(canvases, 0, self._rows[indices], out=buffer)

    def _from_files(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        loader = DataLoader(
            self._files,
            batch_size=None,  # an index of the data set is a batch already
            sampler=[indices.tolist() for indices in batches],
            num_workers=self._num_workers,
            worker_init_fn=_leave_signals_to_the_run,
            # Else, from Python 3.14 on, the workers are a server's children and outlive a run that is killed.
            multiprocessing_context="fork" if self._num_workers and sys.platform == "linux" else None,
            pin_memory=self._pinned,
            # Else each epoch would draw a seed from the global stream, and dropout differ from a run with canvases.
            generator=torch.Generator(),
        )
        for canvases, problems in loader:
            if problems:
                raise DataError(problems)
            yield canvases


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole process group is the training process's: it ends its workers when it has saved."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class _CanvasFiles(Dataset):
    """Batches of canvases decoded from files: list of indices -> uint8 (B, ...), and a line for each bad image."""

    def __init__(self, paths: Sequence[Path], make_canvas: Callable[[Image.Image], np.ndarray]) -> None:
        self._paths = paths
        self._make_canvas = make_canvas

    def __getitem__(self, indices: list[int]) -> tuple[np.ndarray, list[str]]:
        canvases, problems = [], []
        for index in indices:
            try:
                canvases.append(read_canvas(self._paths[index], self._make_canvas))
            except DataError as error:  # raised in a worker, it would arrive as a traceback in a text
                problems += error.lines
        return (np.empty(0, np.uint8) if problems else np.stack(canvases)), problems
