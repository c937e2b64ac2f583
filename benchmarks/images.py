"""Input speed: from JPEG files to normalised batches, against torchvision's transforms in a DataLoader.

``python benchmarks/images.py`` makes the JPEG files, times both sides in turn, prints a table
and writes JSON. *First epoch*: the making of the cache included. *Warm*: a later epoch. *For a
card*: what is left to the processor where crop, flip and normalisation run on a CUDA card.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).parents[1]))
from afa.data.folders import scan_split
from afa.data.loaders import TrainLoader
from afa.data.store import Store
from afa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from afa.results.figures import format_table
from afa.training.device import keep_freed_memory
from afa.training.environment import environment

SIZE = (500, 375)  # Stanford Dogs' commonest
BATCH = 64
PREPROCESSING = Preprocessing(224)
CPU = torch.device("cpu")


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


class Cost(NamedTuple):
    """Seconds by the clock, and of all processors together."""

    wall: float
    cpu: float


def cost(work: Callable[[], Iterable[Any]], rounds: int = 1) -> Cost:
    """Of going through the batches of ``work``, a round; worker processes are over by then, and counted."""

    def cpu() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    wall, before = time.perf_counter(), cpu()
    for _ in range(rounds):
        for _ in work():
            pass
    return Cost((time.perf_counter() - wall) / rounds, (cpu() - before) / rounds)


def first_epochs(folder: Path, repeats: int) -> list[tuple[Cost, Cost]]:
    """The plain path's first epoch and the cached one's, in turn."""
    pairs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="afa_cache_") as cache:
            plain = cost(lambda: plain_loader(folder))
            pairs.append((plain, cost(lambda cache=cache: cached_loader(folder, Path(cache)).epoch(0))))
    return pairs


def warm_epochs(folder: Path, repeats: int) -> tuple[list[tuple[Cost, Cost]], list[tuple[Cost, Cost]]]:
    """A later epoch on both sides, in turn: the cached one whole, and what of it a card leaves to the processor."""
    whole, for_card = [], []
    with tempfile.TemporaryDirectory(prefix="afa_cache_") as cache:
        loader, rounds = cached_loader(folder, Path(cache)), 10
        batches = torch.arange(len(loader.folder)).split(BATCH)
        for _ in range(repeats):
            plain = cost(lambda: plain_loader(folder))
            whole.append((plain, cost(lambda: loader.epoch(1), rounds)))
            for_card.append((plain, cost(lambda: loader.pixels(batches), rounds)))
    return whole, for_card


def figures(pairs: list[tuple[Cost, Cost]], images: int) -> dict[str, float]:
    """Medians: images per second of each side, and the ratios pair by pair."""
    return {
        "plain": images / statistics.median(plain.wall for plain, _ in pairs),
        "cached": images / statistics.median(cached.wall for _, cached in pairs),
        "wall_ratio": statistics.median(plain.wall / cached.wall for plain, cached in pairs),
        "cpu_ratio": statistics.median(plain.cpu / cached.cpu for plain, cached in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/images.json"))
    words = parser.parse_args()
    torch.set_num_threads(1)  # as in DataLoader's processes
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # 4 is the textbook's number
    keep_freed_memory()  # as a run on the CPU does
    with tempfile.TemporaryDirectory(prefix="afa_images_") as place:
        folder = Path(place)
        make_images(folder, words.images)
        warm, for_card = warm_epochs(folder, words.repeats)
        pairs = {"first epoch": first_epochs(folder, words.repeats), "warm": warm, "warm, for a card": for_card}
    results = {name: figures(own, words.images) for name, own in pairs.items()}
    header = ["images/s", "plain, 4 processes", "cache = disk", "ratio", "ratio of CPU seconds"]
    rows = [
        [name, f"{f['plain']:.0f}", f"{f['cached']:.0f}", f"{f['wall_ratio']:.2f}", f"{f['cpu_ratio']:.2f}"]
        for name, f in results.items()
    ]
    print(format_table(header, rows))
    words.json.parent.mkdir(parents=True, exist_ok=True)
    told = {"environment": environment(CPU, " ".join(sys.argv)), "images": words.images, "repeats": words.repeats}
    words.json.write_text(json.dumps({**told, **results}, indent=1) + "\n")
    print(f"written to {words.json}")


if __name__ == "__main__":
    main()
