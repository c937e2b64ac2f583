"""The store of decoded images: complete, in order, and bad images do not stop the good ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afa.data.cache import load_canvases
from afa.data.folders import scan_split, without
from afa.data.images import read_image
from afa.data.transforms import Preprocessing

MAKE = Preprocessing(32).train_canvas


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_good_images_in_order_and_bad_ones_named(workers: int, make_split: Callable[..., Path]) -> None:
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


def test_nothing_but_bad_images(tmp_path: Path) -> None:
    canvases, bad = load_canvases([tmp_path / "1.jpg", tmp_path / "2.jpg"], MAKE, workers=2)
    assert len(canvases) == 0
    assert list(bad) == [0, 1]


def test_what_the_progress_callback_raises_stops_the_reading(make_split: Callable[..., Path]) -> None:
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
