"""Time the input, from JPEG files to normalised batches, against torchvision's transforms in a DataLoader.

``python benchmarks/images.py`` creates the JPEG files, times both sides in turn, prints a table
and writes JSON. *First epoch*: includes building the cache. *Warm*: a later epoch.
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

from afa.data.disk_cache import DiskCache
from afa.data.folders import scan_split
from afa.data.loaders import TrainLoader
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from afa.machine.device import keep_freed_memory
from afa.results.outcomes import format_table

SIZE = (500, 375)  # the most common size in Stanford Dogs
BATCH = 64
PREPROCESSING = Preprocessing(224)


def make_images(folder: Path, count: int) -> None:
    """Write JPEG files of about 55 KB in two classes: blurred noise, which has the size and detail of photographs."""
    generator = np.random.default_rng(1)
    for index in range(count):
        path = folder / "ab"[index % 2] / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.2)).save(path, quality=92)


def plain_loader(folder: Path) -> DataLoader:
    """The loader of the textbook: Pillow transforms for each image at each use, in four processes."""
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
    """The loader of AFA, with ``cache = disk`` in the folder ``cache``."""
    split = scan_split(folder)
    disk_cache = DiskCache(
        cache, "benchmark", paths=split.paths, make_canvas=PREPROCESSING.train_canvas, recipe=repr(PREPROCESSING)
    )
    canvases, _ = disk_cache.open(
        workers=torch.multiprocessing.cpu_count(),
        on_progress=lambda done: None,
        log=lambda line: None,
        keep_if_bad=False,
    )
    return TrainLoader(split, PREPROCESSING, batch_size=BATCH, seed=1, device=CPU, num_workers=0, canvases=canvases)


def consume(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def build_plain(folder: Path) -> Work:
    """One epoch of the textbook."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # the textbook uses 4 on any machine
    return lambda: consume(plain_loader(folder))


def build_first_epoch(folder: Path) -> Work:
    """One epoch of AFA, with a new cache each time."""
    keep_freed_memory(CPU)  # as a run does

    def epoch() -> None:
        with tempfile.TemporaryDirectory(prefix="afa_cache_") as cache:
            consume(cached_loader(folder, Path(cache)).epoch(0))

    return epoch


def build_warm_epoch(folder: Path, cache: Path) -> Work:
    """A later epoch of AFA."""
    keep_freed_memory(CPU)
    loader = cached_loader(folder, cache)
    return lambda: consume(loader.epoch(1))


def measure(folder: Path, images: int, repeats: int) -> dict[str, dict[str, float]]:
    """``first epoch`` and ``warm`` -> images per second of both sides, and their ratios."""
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="afa_images_") as folder:
        make_images(Path(folder), arguments.images)
        results = measure(Path(folder), arguments.images, arguments.repeats)
    header = ["images/s", "plain, 4 processes", "cache = disk", "ratio", "ratio of CPU seconds"]
    rows = [
        [
            name,
            f"{result['plain']:.0f}",
            f"{result['cached']:.0f}",
            f"{result['wall_ratio']:.2f}",
            f"{result['cpu_ratio']:.2f}",
        ]
        for name, result in results.items()
    ]
    print(format_table(header, rows))
    write(arguments.json, images=arguments.images, repeats=arguments.repeats, **results)


if __name__ == "__main__":
    main()
