"""Small image folders, created for each test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.pictures import noise


@pytest.fixture
def make_split(tmp_path: Path) -> Callable[..., Path]:
    """``make_split(cat=3, dog=2)``: create a folder with so many images per class, of different sizes."""

    def make(name: str = "train", **counts: int) -> Path:
        for label, (class_name, count) in enumerate(counts.items()):
            folder = tmp_path / name / class_name
            folder.mkdir(parents=True)
            for index in range(count):
                noise(40 + 3 * index, 50 - label, seed=100 * label + index).save(folder / f"{index:02}.png")
        return tmp_path / name

    return make
