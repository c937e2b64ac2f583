"""Decoded images on disk: identical pixels, complete files or none, built once by several processes."""

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

from afa.data.disk_cache import DiskCache
from afa.data.folders import ImageFolder, scan_split
from afa.data.images import load_canvases, read_image
from afa.data.loaders import TrainLoader
from afa.data.transforms import Preprocessing, augment, draw_augmentation
from afa.errors import DataError
from tests.data.pictures import noise

MODES = ["default", "improved"]
PREPROCESSING = Preprocessing(32)


@pytest.fixture
def images(make_split: Callable[..., Path]) -> ImageFolder:
    return scan_split(make_split(a=5, b=4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def new_cache(images: ImageFolder, folder: Path, *, views: str = "train_canvas", mode: str = "default") -> DiskCache:
    preprocessing = Preprocessing(32, mode)
    return DiskCache(
        folder,
        "tiny-train",
        paths=images.paths,
        make_canvas=getattr(preprocessing, views),
        recipe=f"{preprocessing}.{views}",
    )


def open_cache(cache: DiskCache, *, keep_if_bad: bool = False) -> tuple[np.ndarray, dict[int, str], list[str]]:
    """Pixels, bad images, and logged lines."""
    logged: list[str] = []
    pixels, bad = cache.open(workers=2, on_progress=lambda done: None, log=logged.append, keep_if_bad=keep_if_bad)
    return pixels, bad, logged


def names(folder: Path, *suffixes: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("views", ["train_canvas", "test_canvas"])
def test_pixels_are_those_in_memory_when_built_and_when_read_again(images, folder, mode, views):
    expected, _ = load_canvases(images.paths, getattr(Preprocessing(32, mode), views), workers=1)
    for built in (True, False):
        pixels, bad, logged = open_cache(new_cache(images, folder, views=views, mode=mode))
        assert np.array_equal(pixels, expected)
        assert not bad
        assert bool(logged) == built
    assert len(names(folder, ".npy")) == len(names(folder, ".json")) == 1
    assert not names(folder, ".tmp")
    assert np.array_equal(np.load(next(folder.glob("*.npy"))), expected)


@pytest.mark.parametrize("mode", MODES)
def test_batches_are_bit_identical_to_those_without_a_cache(images, folder, mode):
    pixels, _, _ = open_cache(new_cache(images, folder, mode=mode))
    preprocessing = Preprocessing(32, mode)
    rows = np.array([8, 1, 2, 6])
    subset = images.subset(rows.tolist())
    common = {"batch_size": 3, "seed": 1, "device": torch.device("cpu"), "num_workers": 0}
    plain = list(TrainLoader(subset, preprocessing, **common).epoch(0))
    mapped = list(TrainLoader(subset, preprocessing, **common, canvases=pixels, rows=rows).epoch(0))
    pairs = [pair for own, other in zip(mapped, plain, strict=True) for pair in zip(own, other, strict=True)]
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    # Before normalisation, against Pillow's own crop and flip.
    draws = draw_augmentation(1, 0, 4, preprocessing)
    cropped = augment(torch.from_numpy(pixels[rows]), *draws, size=32)
    for image, path, top, left, flip in zip(cropped, subset.paths, *(table.tolist() for table in draws), strict=True):
        canvas = np.asarray(preprocessing.train_canvas(read_image(path)))
        canvas = canvas[:, ::-1] if flip else canvas
        assert np.array_equal(image.permute(1, 2, 0), canvas[top : top + 32, left : left + 32])


def test_the_size_is_logged_before_anything_is_written(images, folder):
    def log(line: str) -> None:
        assert not names(folder, ".tmp")
        assert "writing 9 decoded images, 0 MB, to" in line
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        new_cache(images, folder).open(workers=1, on_progress=lambda done: None, log=log, keep_if_bad=False)


def test_an_interrupted_build_leaves_no_file(images, folder):
    def interrupt(done: int) -> None:
        assert names(folder, ".tmp")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        new_cache(images, folder).open(workers=1, on_progress=interrupt, log=lambda line: None, keep_if_bad=False)
    assert not names(folder, ".npy", ".json", ".tmp")


def test_a_changed_image_is_decoded_again(images, folder):
    open_cache(new_cache(images, folder))
    noise(44, 44, seed=99).save(images.paths[4])
    pixels, _, logged = open_cache(new_cache(images, folder))
    assert len(logged) == 1
    assert np.array_equal(pixels[4], PREPROCESSING.train_canvas(read_image(images.paths[4])))
    assert len(names(folder, ".npy")) == 1


def test_a_build_that_dies_between_its_two_files_is_repeated(images, folder, monkeypatch):
    """The old description must not survive: the images could return to the state that it describes."""
    open_cache(new_cache(images, folder))
    path, original = images.paths[3], images.paths[3].read_bytes()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    noise(44, 44, seed=99).save(path)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("afa.data.disk_cache.json.dumps", die)
        with pytest.raises(KeyboardInterrupt):
            open_cache(new_cache(images, folder))
    path.write_bytes(original)
    os.utime(path, ns=times)
    pixels, _, logged = open_cache(new_cache(images, folder))
    assert logged
    assert np.array_equal(pixels, load_canvases(images.paths, PREPROCESSING.train_canvas, workers=1)[0])


def test_other_pixels_under_the_same_name_size_and_time_are_noticed(images, folder):
    before = images.paths[0].stat()
    open_cache(new_cache(images, folder))
    original = images.paths[0].read_bytes()
    noise(40, 50, seed=99).save(images.paths[0])
    images.paths[0].write_bytes(images.paths[0].read_bytes()[: len(original)].ljust(len(original), b"\0"))
    os.utime(images.paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    pixels, _, logged = open_cache(new_cache(images, folder))
    assert logged
    assert np.array_equal(pixels[0], PREPROCESSING.train_canvas(read_image(images.paths[0])))


@pytest.mark.parametrize(
    ("suffix", "keep"),
    [*((".npy", keep) for keep in (0, 7, 100, 1000, -1, -100)), *((".json", keep) for keep in (0, 7, -1, -100))],
)
def test_a_truncated_file_is_never_read(images, folder, suffix, keep):
    expected, _, _ = open_cache(new_cache(images, folder))
    expected = np.array(expected)
    path = next(folder.glob(f"*{suffix}"))
    path.write_bytes(path.read_bytes()[:keep])
    pixels, _, logged = open_cache(new_cache(images, folder))
    assert logged
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("header", [b"(9, 36, 37, 3)", b"(8, 37, 37, 3)", b"(9, 37, 37, 3 ", b"(9, 37, 37,99)"])
def test_a_modified_header_is_never_used(images, folder, header):
    expected = np.array(open_cache(new_cache(images, folder))[0])
    path = next(folder.glob("*.npy"))
    path.write_bytes(path.read_bytes().replace(b"(9, 37, 37, 3)", header, 1))
    pixels, _, logged = open_cache(new_cache(images, folder))
    assert logged
    assert np.array_equal(pixels, expected)


def test_bad_images_are_reported_and_leave_a_file_only_if_they_are_skipped(images, folder):
    images.paths[2].write_bytes(b"")
    line = {2: f"{images.paths[2]}: empty file"}
    for _ in range(2):
        _, bad, logged = open_cache(new_cache(images, folder))
        assert (bad, len(logged)) == (line, 1)
    assert not names(folder, ".npy", ".json")
    for built in (1, 0):
        pixels, bad, logged = open_cache(new_cache(images, folder), keep_if_bad=True)
        assert (bad, len(logged), len(pixels)) == (line, built, 8)
    assert np.array_equal(pixels[2], PREPROCESSING.train_canvas(read_image(images.paths[3])))


def test_only_bad_images(images, folder):
    for path in images.paths:
        path.write_bytes(b"")
    for built in (1, 0):
        pixels, bad, logged = open_cache(new_cache(images, folder), keep_if_bad=True)
        assert (len(pixels), len(bad), len(logged)) == (0, 9, built)


def test_a_disk_that_is_too_small_is_refused_in_one_line(images, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 100))
    with pytest.raises(DataError, match=r"9 decoded images need 0 MB, 0 MB are free; choose another cache_dir"):
        open_cache(new_cache(images, folder))
    assert not names(folder, ".npy")


def test_a_disk_that_becomes_full_leaves_no_file(images, folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(DataError, match="cannot be written: No space"):
        open_cache(new_cache(images, folder))
    assert not names(folder, ".npy", ".json", ".tmp")


def test_a_folder_that_cannot_be_created_is_one_line(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        open_cache(new_cache(images, tmp_path / "file"))


def _build_slowly(images: ImageFolder, folder: Path, logged: object) -> None:
    new_cache(images, folder).open(
        workers=1, on_progress=lambda done: time.sleep(0.5 * (done > 0)), log=logged.put, keep_if_bad=False
    )


def test_two_processes_build_once_and_replace_one_that_was_killed(images, folder):
    context = multiprocessing.get_context("fork")
    logged = context.Queue()
    first, second = (context.Process(target=_build_slowly, args=(images, folder, logged)) for _ in range(2))
    first.start()
    assert logged.get(timeout=30)  # the first has the lock
    second.start()
    time.sleep(0.3)
    os.kill(first.pid, signal.SIGKILL)
    assert logged.get(timeout=30)  # the second builds instead
    third = context.Process(target=_build_slowly, args=(images, folder, logged))
    third.start()
    for process in (second, third):
        process.join(timeout=30)
        assert process.exitcode == 0
    assert logged.empty()  # the third waited, and read
    pixels, _, built = open_cache(new_cache(images, folder))
    assert not built
    assert np.array_equal(pixels, load_canvases(images.paths, PREPROCESSING.train_canvas, workers=1)[0])
