"""Measure how the start of a run grows with the number of images: first start, second start, memory, disk cache.

    python benchmarks/large_folders.py --images 1000 10000 100000

The images are links to a few files, so that decoding takes little time. A *start* lists the images, checks them, and
computes their digests; the program does the same until it builds the networks. Each start is a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import write

from afa.results.outcomes import format_bytes, format_table

CLASSES, SIZE = 10, 32
HEADER = ["images", "cache", "start", "s", "CPU s", "peak memory", "disk cache"]


def make_data_set(root: Path, images: int) -> None:
    """``images`` training images and a tenth of it test images, in ten classes; one file for each class and split."""
    generator = np.random.default_rng(0)
    for split, count in (("train", images), ("test", images // 10)):
        for label in range(CLASSES):
            file = root / "files" / f"{split}_{label}.jpg"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(file)
            folder = root / "set" / split / f"class_{label}"
            folder.mkdir(parents=True)
            for index in range(count // CLASSES):
                (folder / f"{index:06}.jpg").symlink_to(file)


def start(root: str, cache: str, is_second: str) -> None:
    """One start; prints wall-clock seconds, CPU seconds and peak memory in MiB."""
    import torch

    from afa.commands.image_reader import Images
    from afa.config.settings import DataSettings
    from afa.machine.context import Context
    from afa.machine.signals import Signals
    from afa.results.journal import Journal

    data = DataSettings(dataset="set", root=root, image_size=SIZE, cache=cache, cache_dir=f"{root}/cache")
    context = Context(torch.device("cpu"), Journal(Path("/dev/null"), quiet=True), Signals())
    wall, cpu = time.perf_counter(), time.process_time()
    images = Images(data, context, are_checked=is_second == "second")
    images.train.folder.fingerprint()
    images.test.folder.fingerprint()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.perf_counter() - wall, time.process_time() - cpu, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--caches", nargs="+", default=["disk", "none"], choices=["disk", "none", "memory"])
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/large_folders.json"))
    arguments = parser.parse_args()
    results = []
    for images in arguments.images:
        with tempfile.TemporaryDirectory(prefix="afa_large_") as root:
            make_data_set(Path(root), images)
            for cache in arguments.caches:
                for which in ("first", "second"):
                    command = [sys.executable, __file__, "start", root, cache, which]
                    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                    wall, cpu, peak = map(float, output.split())
                    kept = sum(path.stat().st_size for path in Path(root, "cache").glob("*")) if cache == "disk" else 0
                    results.append([images, cache, which, wall, cpu, peak, kept])
    rows = [
        [
            f"{images:,}",
            cache,
            which,
            f"{wall:.2f}",
            f"{cpu:.2f}",
            f"{peak:.0f} MiB",
            format_bytes(kept) if kept else "-",
        ]
        for images, cache, which, wall, cpu, peak, kept in results
    ]
    print(format_table(HEADER, rows))
    write(arguments.json, header=HEADER, rows=results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        start(*sys.argv[2:])
    else:
        main()
