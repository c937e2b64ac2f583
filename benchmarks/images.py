"""Input speed: from JPEG files to normalised batches, against torchvision's transforms in a DataLoader.

``python benchmarks/images.py`` makes the JPEG files, times both sides in turn, prints a table
and writes JSON. *First epoch*: the making of the cache included. *Warm*: a later epoch.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import CPU, Side, Work, in_turn, median, ratio, write

from afa.data.folders import scan_split
from afa.data.loaders import TrainLoader
from afa.data.store import Store
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from afa.results.figures import format_table
from afa.training.device import keep_freed_memory

SIZE = (500, 375)  # Stanford Dogs' commonest
BATCH = 64
PREPROCESSING = Preprocessing(224)


def make_images(folder: Path, count: int) -> None:
    """JPEG files of about 55 KB, in two classes: blurred noise, as bytes and detail like a photograph's."""
    generator = np.random.default_rng(1)
    for index in range(count):
        path = folder / "ab"[index % 2] / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.2)).save(path, quality=92)


def plain_loader(folder: Path) -> DataLoader:
    """What a textbook does: Pillow transforms for each image at each use, in four processes."""
    chain = transforms.Compose(
        [
            transforms.Resize((256, 256)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return DataLoader(ImageFolder(str(folder), chain), batch_size=BATCH, shuffle=True, num_workers=4)


def cached_loader(folder: Path, cache: Path) -> TrainLoader:
    """This program's, with ``cache = disk`` in ``cache``."""
    split = scan_split(folder)
    store = Store(
        cache, "benchmark", paths=split.paths, make_canvas=PREPROCESSING.train_canvas, recipe=repr(PREPROCESSING)
    )
    canvases, _ = store.open(
        workers=torch.multiprocessing.cpu_count(),
        on_progress=lambda done: None,
        say=lambda line: None,
        keep_if_bad=False,
    )
    return TrainLoader(split, PREPROCESSING, batch_size=BATCH, seed=1, device=CPU, num_workers=0, canvases=canvases)


def consume(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def build_plain(folder: Path) -> Work:
    """An epoch of the plain path."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # 4 is the textbook's number
    return lambda: consume(plain_loader(folder))


def build_first_epoch(folder: Path) -> Work:
    """An epoch of this program, with a new cache each time."""
    keep_freed_memory(CPU)  # as a run does

    def epoch() -> None:
        with tempfile.TemporaryDirectory(prefix="afa_cache_") as cache:
            consume(cached_loader(folder, Path(cache)).epoch(0))

    return epoch


def build_warm_epoch(folder: Path, cache: Path) -> Work:
    """A later epoch of this program."""
    keep_freed_memory(CPU)
    loader = cached_loader(folder, cache)
    return lambda: consume(loader.epoch(1))


def measure(folder: Path, images: int, repeats: int) -> dict[str, dict[str, float]]:
    """What is timed -> images per second of each side, and the ratios pair by pair."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="afa_cache_") as cache, Side(build_plain, folder) as plain:
        sides = {
            "first epoch": Side(build_first_epoch, folder),
            "warm": Side(build_warm_epoch, folder, Path(cache), rounds=10),
        }
        for name, side in sides.items():
            with side:
                costs = in_turn({"plain": plain, "cached": side}, repeats)
            times = ratio(costs["plain"], costs["cached"])
            results[name] = {
                "plain": images / median(costs["plain"]).wall,
                "cached": images / median(costs["cached"]).wall,
                "wall_ratio": times.wall,
                "cpu_ratio": times.cpu,
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/images.json"))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="afa_images_") as place:
        make_images(Path(place), words.images)
        results = measure(Path(place), words.images, words.repeats)
    header = ["images/s", "plain, 4 processes", "cache = disk", "ratio", "ratio of CPU seconds"]
    rows = [
        [name, f"{f['plain']:.0f}", f"{f['cached']:.0f}", f"{f['wall_ratio']:.2f}", f"{f['cpu_ratio']:.2f}"]
        for name, f in results.items()
    ]
    print(format_table(header, rows))
    write(words.json, images=words.images, repeats=words.repeats, **results)


if __name__ == "__main__":
    main()
