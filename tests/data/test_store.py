"""The store of decoded images on the disk: the right pixels, whole or not at all, built once."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from afa.data import store as store_module
from afa.data.cache import load_canvases
from afa.data.folders import ImageFolder, scan_split
from afa.data.images import read_image
from afa.data.loaders import TrainLoader
from afa.data.store import Store
from afa.data.transforms import Preprocessing, augment, draw_augmentation
from afa.errors import DataError
from tests.data.pictures import noise

MODES = ["default", "improved"]
PREPROCESSING = Preprocessing(32)


@pytest.fixture
def folder(make_split: Callable[..., Path]) -> ImageFolder:
    return scan_split(make_split(a=5, b=4))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def a_store(folder: ImageFolder, place: Path, *, views: str = "train_canvas", mode: str = "default") -> Store:
    preprocessing = Preprocessing(32, mode)
    return Store(
        place,
        "tiny-train",
        paths=folder.paths,
        make_canvas=getattr(preprocessing, views),
        recipe=f"{preprocessing}.{views}",
    )


def open_store(store: Store, *, keep_if_bad: bool = False) -> tuple[np.ndarray, dict[int, str], list[str]]:
    """Pixels, bad images, and what was said."""
    said: list[str] = []
    pixels, bad = store.open(workers=2, on_progress=lambda done: None, say=said.append, keep_if_bad=keep_if_bad)
    return pixels, bad, said


def names(place: Path, ending: str = "") -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.endswith(ending))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("views", ["train_canvas", "test_canvas"])
def test_pixels_are_those_of_memory_when_built_and_when_read_again(folder, place, mode, views):
    expected, _ = load_canvases(folder.paths, getattr(Preprocessing(32, mode), views), workers=1)
    for announced in (True, False):
        pixels, bad, said = open_store(a_store(folder, place, views=views, mode=mode))
        assert np.array_equal(pixels, expected)
        assert not bad
        assert bool(said) == announced
    assert len(names(place, ".pixels")) == 1
    assert not names(place, ".tmp")


@pytest.mark.parametrize("mode", MODES)
def test_batches_are_those_of_the_plain_path_to_the_bit(folder, place, mode):
    pixels, _, _ = open_store(a_store(folder, place, mode=mode))
    preprocessing = Preprocessing(32, mode)
    rows = np.array([8, 1, 2, 6])
    part = ImageFolder(
        folder.root, tuple(folder.paths[r] for r in rows), tuple(folder.labels[r] for r in rows), folder.classes
    )
    common = {"batch_size": 3, "seed": 1, "device": torch.device("cpu"), "num_workers": 0}
    plain = list(TrainLoader(part, preprocessing, **common).epoch(0))
    mapped = list(TrainLoader(part, preprocessing, **common, canvases=pixels, rows=rows).epoch(0))
    pairs = [pair for own, other in zip(mapped, plain, strict=True) for pair in zip(own[:3], other[:3], strict=True)]
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    # Before normalisation, against Pillow's own crop and flip.
    draws = draw_augmentation(1, 0, 4, preprocessing)
    cropped = augment(torch.from_numpy(pixels[rows]), *draws, size=32)
    for image, path, top, left, flip in zip(cropped, part.paths, *(table.tolist() for table in draws), strict=True):
        canvas = np.asarray(preprocessing.train_canvas(read_image(path)))
        canvas = canvas[:, ::-1] if flip else canvas
        assert np.array_equal(image.permute(1, 2, 0), canvas[top : top + 32, left : left + 32])


def test_size_is_said_before_anything_is_written(folder, place):
    def say(line: str) -> None:
        assert not names(place, ".tmp")
        assert "writing 9 decoded images, 0 MB, to" in line
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a_store(folder, place).open(workers=1, on_progress=lambda done: None, say=say, keep_if_bad=False)


def test_a_changed_image_is_decoded_anew(folder, place):
    open_store(a_store(folder, place))
    noise(44, 44, seed=99).save(folder.paths[4])
    pixels, _, said = open_store(a_store(folder, place))
    assert len(said) == 1
    assert np.array_equal(pixels[4], PREPROCESSING.train_canvas(read_image(folder.paths[4])))
    assert len(names(place, ".pixels")) == 1


def test_pixels_that_are_not_the_images_are_noticed(folder, place):
    """Names, sizes and times as before, and yet other pixels: a touched-up copy, another Pillow."""
    before = folder.paths[0].stat()
    open_store(a_store(folder, place))
    whole = folder.paths[0].read_bytes()
    flipped = noise(40, 50, seed=99)
    flipped.save(folder.paths[0])
    folder.paths[0].write_bytes(folder.paths[0].read_bytes()[: len(whole)].ljust(len(whole), b"\0"))
    os.utime(folder.paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    pixels, _, said = open_store(a_store(folder, place))
    assert said
    assert np.array_equal(pixels[0], PREPROCESSING.train_canvas(read_image(folder.paths[0])))


@pytest.mark.parametrize("keep", [0, 7, 1000, -1, -100])
def test_a_torn_file_is_never_read(folder, place, keep):
    expected, _, _ = open_store(a_store(folder, place))
    expected = np.array(expected)
    path = next(place.glob("*.pixels"))
    path.write_bytes(path.read_bytes()[:keep])
    pixels, _, said = open_store(a_store(folder, place))
    assert said
    assert np.array_equal(pixels, expected)


def test_bad_images_are_named_and_leave_a_file_only_where_they_are_skipped(folder, place):
    folder.paths[2].write_bytes(b"")
    line = {2: f"{folder.paths[2]}: empty file"}
    for _ in range(2):
        _, bad, said = open_store(a_store(folder, place))
        assert (bad, len(said)) == (line, 1)
    assert not names(place, ".pixels")
    for announced in (1, 0):
        pixels, bad, said = open_store(a_store(folder, place), keep_if_bad=True)
        assert (bad, len(said), len(pixels)) == (line, announced, 8)
    assert np.array_equal(pixels[2], PREPROCESSING.train_canvas(read_image(folder.paths[3])))


def test_a_disk_without_the_room_is_refused_in_one_line(folder, place, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 100))
    with pytest.raises(DataError, match=r"9 decoded images take 0 MB, free are 0 MB; choose another cache_dir"):
        open_store(a_store(folder, place))
    assert not names(place, ".pixels")


def test_a_disk_that_fills_meanwhile_leaves_nothing(folder, place, monkeypatch):
    monkeypatch.setattr(store_module.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(DataError, match="cannot be written: No space"):
        open_store(a_store(folder, place))
    assert not names(place, ".pixels") + names(place, ".tmp")


def test_a_folder_that_cannot_be_made_is_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        open_store(a_store(folder, tmp_path / "file"))


def _build_slowly(folder: ImageFolder, place: Path, said: object) -> None:
    a_store(folder, place).open(
        workers=1, on_progress=lambda done: time.sleep(0.5 * (done > 0)), say=said.put, keep_if_bad=False
    )


def test_two_at_once_build_once_and_one_that_is_killed_is_taken_over(folder, place):
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    first, second = (context.Process(target=_build_slowly, args=(folder, place, said)) for _ in range(2))
    first.start()
    assert said.get(timeout=30)  # the first has the lock
    second.start()
    time.sleep(0.3)
    os.kill(first.pid, signal.SIGKILL)
    assert said.get(timeout=30)  # the second builds in its place
    third = context.Process(target=_build_slowly, args=(folder, place, said))
    third.start()
    for process in (second, third):
        process.join(timeout=30)
        assert process.exitcode == 0
    assert said.empty()  # the third waited, and read
    pixels, _, announced = open_store(a_store(folder, place))
    assert not announced
    assert np.array_equal(pixels, load_canvases(folder.paths, PREPROCESSING.train_canvas, workers=1)[0])
