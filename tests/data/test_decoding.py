"""Decoding is complete and in order, and bad images do not stop it. The available memory is the system's."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afa.data import images
from afa.data.folders import scan_split, without
from afa.data.images import available_memory, load_canvases, read_image
from afa.data.transforms import Preprocessing

MAKE = Preprocessing(32).train_canvas


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_good_images_are_in_order_and_bad_ones_reported(workers: int, make_split: Callable[..., Path]) -> None:
    folder = scan_split(make_split(a=40, b=35))
    broken = [folder.paths[index] for index in (0, 33, 74)]
    for path in broken:
        path.write_bytes(b"")
    seen: list[int] = []
    canvases, bad = load_canvases(folder.paths, MAKE, workers=workers, on_progress=seen.append)
    assert bad == {index: f"{folder.paths[index]}: empty file" for index in (0, 33, 74)}
    rest = without(folder, broken)
    assert canvases.shape == (len(rest), 37, 37, 3)
    assert canvases.dtype == np.uint8
    for canvas, path in zip(canvases, rest.paths, strict=True):
        assert np.array_equal(canvas, MAKE(read_image(path)))
    assert seen == sorted(set(seen))
    assert seen[-1] == 75


def test_only_bad_images(tmp_path: Path) -> None:
    canvases, bad = load_canvases([tmp_path / "1.jpg", tmp_path / "2.jpg"], MAKE, workers=2)
    assert len(canvases) == 0
    assert list(bad) == [0, 1]


def test_an_exception_of_the_progress_callback_stops_the_decoding(make_split: Callable[..., Path]) -> None:
    paths = scan_split(make_split(a=5)).paths * 100
    made: list[Image.Image] = []

    def make_canvas(image: Image.Image) -> np.ndarray:
        made.append(image)
        return MAKE(image)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_canvases(paths, make_canvas, workers=1, on_progress=stop)
    assert len(made) < len(paths) / 2


MEMINFO = "MemTotal:       32779580 kB\nMemFree:          900000 kB\nMemAvailable:   21000000 kB\nBuffers: 5 kB\n"


@pytest.mark.parametrize(
    ("meminfo", "sysconf", "expected"),
    [
        (MEMINFO, {"SC_AVPHYS_PAGES": 225_000, "SC_PAGE_SIZE": 4096}, 21_000_000 * 1024),  # MemFree is too small
        ("", {"SC_AVPHYS_PAGES": 225_000, "SC_PAGE_SIZE": 4096}, 921_600_000),
        ("", {"SC_PAGE_SIZE": 4096}, None),  # macOS
    ],
)
def test_available_memory(
    meminfo: str,
    sysconf: dict[str, int],
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def get(name: str) -> int:
        if name not in sysconf:
            raise ValueError("unrecognized configuration name")
        return sysconf[name]

    if meminfo:
        (tmp_path / "meminfo").write_text(meminfo)
    monkeypatch.setattr(images, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sysconf", get)
    assert available_memory() == expected
