"""The images of a run: training, held-out and test split, decoded once where there is room."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from afa.config.settings import DataSettings
from afa.data.cache import load_canvases
from afa.data.folders import ImageFolder, hold_out, scan_dataset, scan_split, without
from afa.data.store import MakeCanvas, Store
from afa.data.transforms import Preprocessing, resize_side
from afa.errors import DataError
from afa.results.journal import Journal


@dataclass(frozen=True)
class Split:
    """Images and, where they are kept, their canvases (``data/transforms.py``): all, or those in ``rows``, (N,)."""

    folder: ImageFolder
    canvases: np.ndarray | None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Splits:
    """``monitor`` is scored after each epoch: the held-out images, or as published the test images."""

    train: Split
    monitor: Split
    test: Split
    selected_on: str


class ImageReader:
    """Reads splits: names every bad image there is, and keeps the decoded pixels where they fit.

    ``processes``: so many read the same on this machine at once.
    """

    def __init__(self, settings: DataSettings, journal: Journal, processes: int = 1) -> None:
        self.root = Path(settings.root) / settings.dataset
        self.preprocessing = Preprocessing(settings.image_size, settings.augmentation)
        self._settings = settings
        self._journal = journal
        self._processes = processes
        self._workers = max((os.cpu_count() or 1) // processes, 1)

    def read_train(self, folder: ImageFolder) -> Split:
        """A split to train on. Raises DataError for bad images, all at once."""
        return self._read(folder, self.preprocessing.train_canvas)

    def read_test(self, folder: ImageFolder | None = None) -> Split:
        """A split to score on, ``<dataset>/test`` unless given. Raises DataError for bad folders or images."""
        return self._read(folder or scan_split(self.root / "test"), self.preprocessing.test_canvas)

    def _read(self, folder: ImageFolder, make_canvas: MakeCanvas) -> Split:
        keep = self._settings.cache == "disk" or self._fits_memory(len(folder))
        done = 0
        with self._journal.progress(f"reading {folder.root.name}", len(folder)) as bar:

            def advance(count: int) -> None:
                nonlocal done
                bar.update(max(count - done, 0))
                done = max(count, done)

            if self._settings.cache == "disk":
                canvases, bad = self._store(folder, make_canvas).open(
                    workers=self._workers,
                    on_progress=advance,
                    say=self._journal.say,
                    keep_if_bad=self._settings.bad_images == "skip",
                )
            else:
                canvases, bad = load_canvases(
                    folder.paths, make_canvas if keep else _no_canvas, workers=self._workers, on_progress=advance
                )
        if bad:
            self._refuse_or_skip(list(bad.values()))
            folder = without(folder, {folder.paths[index] for index in bad})
        return Split(folder, canvases if keep else None)

    def _store(self, folder: ImageFolder, make_canvas: MakeCanvas) -> Store:
        return Store(
            Path(self._settings.cache_dir).expanduser(),
            f"{self._settings.dataset}-{folder.root.name}",
            paths=folder.paths,
            make_canvas=make_canvas,
            recipe=f"{self.preprocessing}.{make_canvas.__name__}",
        )

    def _refuse_or_skip(self, lines: Sequence[str]) -> None:
        if self._settings.bad_images == "error":
            mend = "mend or remove them, or go on without them: bad_images=skip"
            raise DataError([*lines, f"{self.root}: {len(lines)} bad images; {mend}"])
        self._journal.say(
            "\n".join([*(f"skipped {line}" for line in lines), f"went on without {len(lines)} bad images"])
        )

    def _fits_memory(self, images: int) -> bool:
        if self._settings.cache == "none":
            return False
        wanted = self._processes * images * resize_side(self._settings.image_size) ** 2 * 3
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if wanted > free / 2:
            self._journal.say(
                f"{self._processes * images} decoded images ({wanted / 1e9:.1f} GB) would take over half of the free "
                f"memory ({free / 1e9:.1f} GB): decoding them at each use instead; cache=disk keeps them on the disk"
            )
            return False
        return True


def _no_canvas(image: Image.Image) -> np.ndarray:
    """Nothing to keep: that the image could be decoded is all that is asked."""
    return np.zeros(1, np.uint8)


class Images:
    """The training and test images of a run, read once for all its repeats and stages.

    Raises:
        DataError: folders or images that cannot be used; all of them, a line each.
    """

    def __init__(self, settings: DataSettings, journal: Journal, processes: int = 1) -> None:
        self._reader = ImageReader(settings, journal, processes)
        self._fraction = settings.validation_fraction
        train, test = scan_dataset(self._reader.root)
        self.train = self._reader.read_train(train)
        self.test = self._reader.read_test(test)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.train.folder.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The one that all splits share."""
        return self._reader.preprocessing

    def splits(self, repeat: int) -> Splits:
        """The splits of a repeat, counted from 1; its stages hold out the same images, whatever their seeds."""
        if not self._fraction:
            return Splits(self.train, self.test, self.test, selected_on="test")
        train, held_out = hold_out(self.train.folder, self._fraction, seed=repeat)
        rows = None
        if self.train.canvases is not None:
            places = {path: row for row, path in enumerate(self.train.folder.paths)}
            rows = np.array([places[path] for path in train.paths])
        own = Split(train, self.train.canvases, rows)
        return Splits(own, self._reader.read_test(held_out), self.test, selected_on="held_out")
