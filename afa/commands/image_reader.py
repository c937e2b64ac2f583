"""Reads the images of a run: training, held-out and test split, decoded once if memory or disk permits."""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from afa.config.settings import DataSettings, Settings
from afa.data.disk_cache import DiskCache, MakeCanvas
from afa.data.folders import (
    ImageFolder,
    describe_copies,
    find_layout,
    hold_out,
    missing_classes,
    scan_dataset,
    scan_held_out,
    scan_split,
    without,
)
from afa.data.images import available_memory, describe_lost_pixels, load_canvases
from afa.data.loaders import Split, Splits
from afa.data.transforms import Preprocessing, resize_side
from afa.errors import AFAError, DataError
from afa.files import sha256, user_path
from afa.machine.context import Context
from afa.results.run_folder import find_checkpoint


def with_validation_folder(settings: Settings) -> Settings:
    """The settings of a training run with the validation folder that its data set has, if no fraction is held out.

    Raises:
        DataError: the data set has several validation folders, or the one of the settings has another purpose.
    """
    data = settings.data
    if settings.run.mode == "eval":
        return settings
    layout = find_layout(Path(data.root) / data.dataset)
    name = data.validation_folder or (layout.held_out.name if layout.held_out else "")
    if name in (layout.train.name, layout.test.name):
        raise DataError(f"validation_folder: {name} contains other images of the data set; it must be a third folder")
    return replace(settings, data=replace(data, validation_folder="" if data.validation_fraction else name))


Decoded = dict[tuple[ImageFolder, str], Split]
"""Images and name of their preprocessing -> the split that was read from them."""


def describe_images(folder: ImageFolder) -> dict[str, Any]:
    """Numbers and digest of the images of a split, for ``result.json``."""
    counts = Counter(folder.classes[label] for label in folder.labels)
    per_class = {name: counts[name] for name in folder.classes}
    digest = folder.fingerprint()
    return {"images": len(folder), "per_class": per_class, "sha256": digest, "skipped": folder.skipped}


def digest_files(settings: Settings, known: dict[Any, Any] | None = None) -> dict[str, str]:
    """SHA-256 of the files that the settings name (for the first repeat), by key; without those that do not exist.

    ``known``: path -> digest, shared by several calls, so that each file is read once.
    """
    known = {} if known is None else known
    is_eval, stages = settings.run.mode == "eval", settings.stages
    named = {"pre_trained_path": (settings.run.pre_trained_path, "best" if is_eval else stages[0].stage_start)}
    if not is_eval:
        named["source_weights"] = settings.backbone.source_weights, ""
        for number, stage in enumerate(stages, start=1):
            named[f"channel_weight_path of stage {number}"] = stage.channel_weight_path, ""
            named[f"attention_path of stage {number}"] = stage.attention_path, stage.stage_start
    digests = {}
    for key, (path, which) in named.items():
        with contextlib.suppress(AFAError, OSError):
            if path:
                found = find_checkpoint(path, settings.run.outpath, which=which) if which else Path(path)
                if found not in known:
                    known[found] = sha256(found)
                digests[key] = known[found]
    return digests


def changed_data(settings: Settings, result: Mapping[str, Any], digests: dict[Any, Any] | None = None) -> list[str]:
    """The differences between the images and files of a finished run and those that it would read now.

    Args:
        result: content of ``result.json``.
        digests: shared by several calls, so that each file and each folder is read once.

    Raises:
        AFAError: the data set cannot be used any more, or the result was modified.
    """
    digests = {} if digests is None else digests
    data, now = settings.data, digest_files(settings, digests)
    root = Path(data.root) / data.dataset
    layout = find_layout(root)
    folders = {"train": layout.train, "test": layout.test, "held_out": root / data.validation_folder}
    try:
        files = result.get("files", {"pre_trained_path": result.get("checkpoint_sha256")})  # version 0.1.0, mode=eval
        changed = [f"another file is at {key}" for key in now if (files.get(key) or now[key]) != now[key]]
        if not root.is_dir():  # the data set is no longer on this machine
            return changed
        tested = {"images": result.get("test_images"), "sha256": result.get("test_sha256")}  # version 0.1.0, mode=eval
        for name, path in folders.items():
            before = result.get("data", {"test": tested}).get(name)
            if before and not (data.bad_images == "skip" and "skipped" not in before):  # written by version 0.1.0
                key = path, *before.get("skipped", ())
                if key not in digests:
                    rest = without(scan_split(path), {path / name for name in key[1:]})
                    digests[key] = len(rest), rest.fingerprint()
                if digests[key][1] != before["sha256"]:
                    count = digests[key][0]
                    other = " with other names or sizes" if count == before["images"] else ""
                    changed.append(f"{name.replace('_', '-')} images: {before['images']}, now {count}{other}")
    except (KeyError, TypeError, AttributeError):
        raise AFAError(f"{settings.run_path}: result.json was modified; overwrite=true runs it again") from None
    return changed


class ImageReader:
    """Reads splits: reports all bad images together, and keeps the decoded pixels if they fit into memory.

    If ``decoded`` is given, it keeps all splits for other readers with the same settings. ``are_checked``: an earlier
    start of the run has checked the images, so they are read only to keep their pixels, or to skip bad ones.
    """

    def __init__(
        self, settings: DataSettings, context: Context, decoded: Decoded | None = None, *, are_checked: bool = False
    ) -> None:
        self.root = Path(settings.root) / settings.dataset
        self.preprocessing = Preprocessing(
            settings.image_size, settings.augmentation, settings.background, settings.grey_range
        )
        self._settings, self._journal, self._described = settings, context.journal, set[Path]()
        self._decoded, self._are_checked = decoded, are_checked
        self._processes = context.processes.local_size  # all of them read the same images on this machine
        self._workers = max((os.cpu_count() or 1) // self._processes, 1)

    def read_train(self, folder: ImageFolder) -> Split:
        """Read a split to train on. Raises DataError for bad images, all at once."""
        return self._read_once(folder, self.preprocessing.train_canvas)

    def read_test(self, folder: ImageFolder | None = None) -> Split:
        """Read the test images, by default those of ``data/folders.py``. Raises DataError for bad folders or images."""
        folder = folder or scan_split(find_layout(self.root).test)
        if folder.root.name != "test":
            self._journal.log(f"{self.root}: no test folder; {folder.root.name} contains the test images")
        return self.read_held_out(folder)

    def read_held_out(self, folder: ImageFolder) -> Split:
        """Read images to score with the preprocessing of a test. Raises DataError for bad images."""
        return self._read_once(folder, self.preprocessing.test_canvas)

    def _read_once(self, folder: ImageFolder, make_canvas: MakeCanvas) -> Split:
        if self._decoded is None:
            return self._read(folder, make_canvas)
        key = folder, make_canvas.__name__
        if key not in self._decoded:
            self._decoded[key] = self._read(folder, make_canvas)
        return self._decoded[key]

    def _read(self, folder: ImageFolder, make_canvas: MakeCanvas) -> Split:
        self._describe(folder)
        on_disk = self._settings.cache == "disk"
        keep = on_disk or self._fits_memory(len(folder))
        skip = self._settings.bad_images == "skip"
        if self._are_checked and not (keep or skip):
            return Split(folder, None)
        with self._journal.progress(f"reading {folder.root.name}", len(folder)) as bar:

            def advance(count: int) -> None:
                bar.update(max(count - bar.done, 0))

            if on_disk:
                canvases, bad = DiskCache(
                    user_path(self._settings.cache_dir, "cache_dir"),
                    f"{self._settings.dataset}-{folder.root.name}",
                    paths=folder.paths,
                    make_canvas=make_canvas,
                    recipe=f"{self.preprocessing.recipe}.{make_canvas.__name__}",
                ).open(workers=self._workers, on_progress=advance, log=self._journal.log, keep_if_bad=skip)
            else:
                one_pixel = lambda image: make_canvas(image).reshape(-1)[:1]  # noqa: E731 (only checks the image)
                canvases, bad = load_canvases(
                    folder.paths, make_canvas if keep else one_pixel, workers=self._workers, on_progress=advance
                )
        if bad and not skip:
            advice = "repair or remove them, or set bad_images=skip"
            raise DataError([*bad.values(), f"{self.root}: {len(bad)} bad images; {advice}"])
        if bad:
            lines = [f"skipped {line}" for line in bad.values()]
            self._journal.log("\n".join([*lines, f"continuing without {len(bad)} bad images"]))
            folder = without(folder, {folder.paths[index] for index in bad})
        return Split(folder, canvases if keep else None)

    def _describe(self, folder: ImageFolder) -> None:
        """Log the notes about the folder of a split, once."""
        if folder.root not in self._described:
            self._described.add(folder.root)
            lost = describe_lost_pixels(folder.paths, self.preprocessing.background, self.preprocessing.grey_range)
            for line in (*folder.notes, *(f"{folder.root}: {line}" for line in lost)):
                self._journal.log(line)

    def _fits_memory(self, images: int) -> bool:
        if self._settings.cache == "none":
            return False
        images, free = self._processes * images, available_memory()
        wanted = images * resize_side(self._settings.image_size) ** 2 * 3
        if free is None or wanted <= free / 2:
            return True
        self._journal.log(
            f"{images} decoded images ({wanted / 1e9:.1f} GB) need more than half of the free memory "
            f"({free / 1e9:.1f} GB): decoding them at each use instead; cache=disk keeps them on the disk"
        )
        return False


class Images:
    """The training, test and held-out images of a run, read once for all its repeats and stages.

    Attributes:
        held_out: those of the validation folder; None without one.

    Raises:
        DataError: folders or images that cannot be used; all of them, one line each.
    """

    def __init__(
        self, settings: DataSettings, context: Context, decoded: Decoded | None = None, *, are_checked: bool = False
    ) -> None:
        is_first = not (decoded or are_checked)  # of several runs with the same images, or of several starts of one
        self._reader = ImageReader(settings, context, decoded, are_checked=are_checked)
        self._fraction = settings.validation_fraction
        train, test = scan_dataset(self._reader.root)
        self.train = self._reader.read_train(train)
        self.test = self._reader.read_test(test)
        self.held_out: Split | None = None
        if settings.validation_folder:
            held_out = scan_held_out(self._reader.root / settings.validation_folder, train.classes)
            missing = missing_classes(held_out)
            if missing:
                context.journal.log(missing)
            self.held_out = self._reader.read_held_out(held_out)
        if context.processes.is_main and is_first:
            splits = {"test": self.test, "held-out": self.held_out, "training": self.train}
            for line in describe_copies({name: split.folder for name, split in splits.items() if split}):
                context.journal.log(line)
        self.splits = lru_cache(maxsize=1)(self._splits)
        """Splits of a repeat, counted from 1; all its stages hold out the same images, whatever their seeds."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.train.folder.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of all splits."""
        return self._reader.preprocessing

    def _splits(self, repeat: int) -> Splits:
        if self.held_out:
            return Splits(self.train, self.held_out, self.test, selected_on="held_out")
        if not self._fraction:
            return Splits(self.train, self.test, self.test, selected_on="test")
        train, held_out = hold_out(self.train.folder, self._fraction, seed=repeat)
        rows = None
        if self.train.canvases is not None:
            row_of = {path: row for row, path in enumerate(self.train.folder.paths)}
            rows = np.array([row_of[path] for path in train.paths])
        own = Split(train, self.train.canvases, rows)
        return Splits(own, self._reader.read_held_out(held_out), self.test, selected_on="held_out")
