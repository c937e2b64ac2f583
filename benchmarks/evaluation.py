"""Time an evaluation against the textbook: the network alone, and from JPEG files to top-1 with one or ten views.

``python benchmarks/evaluation.py`` creates the JPEG files and times both sides in turn. *Warm*: the decoded pixels
are in the cache; the textbook decodes each image at each use. With ten views it also decodes an image once, but it
crops, converts and normalises each view separately.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import textbook
from images import make_images
from step import network_of
from timing import Side, Work, against_textbook, in_turn, write

from afa.data.folders import scan_split
from afa.data.images import read_canvas
from afa.data.loaders import TestBatch, TestLoader
from afa.data.transforms import Preprocessing
from afa.machine.device import keep_freed_memory
from afa.networks.features import FeatureNetwork
from afa.results.outcomes import format_table
from afa.training.engine import predict, score
from afa.training.numerics import products_in_tf32

BATCH = 64
PASSES = {"network alone": 0, "one view, warm": 1, "ten views, warm": 10}
"""Title -> views of an image; 0: no files, only a batch on the device."""


def one_batch(layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """(B, 3, 224, 224) images and (B,) labels."""
    images = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    return images.contiguous(memory_format=layout), torch.zeros(BATCH, dtype=torch.int64)


def build_textbook(arguments: argparse.Namespace, folder: Path, views: int) -> Work:
    """One pass of the textbook over the files; with 0 views, over one batch on the device."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # the textbook uses 4 on any machine
    network = network_of(arguments.network, arguments.device)
    evaluate = products_in_tf32(False)(textbook.evaluate)  # a decorator, which forbids torch's default on GPUs
    if views:
        loader = textbook.test_loader(folder, BATCH, ten_crops=views == 10)
        return lambda: evaluate(network, loader, arguments.device)
    images, labels = one_batch(torch.contiguous_format)
    batch = images.to(arguments.device), labels
    return lambda: evaluate(network, [batch], arguments.device)


def build_ours(arguments: argparse.Namespace, folder: Path, views: int) -> Work:
    """The same pass of AFA, with all decoded pixels in memory."""
    keep_freed_memory(arguments.device)  # as a run does
    network = FeatureNetwork(network_of(arguments.network, arguments.device), ())
    batches: Iterable[TestBatch]
    if views:
        split, preprocessing = scan_split(folder), Preprocessing(224, "improved" if views == 10 else "default")
        canvases = np.stack([read_canvas(path, preprocessing.test_canvas) for path in split.paths])
        batches = TestLoader(
            split, preprocessing, batch_size=BATCH, device=arguments.device, num_workers=0, canvases=canvases
        )
    else:
        images, labels = one_batch(torch.channels_last)
        batches = [TestBatch(images.to(arguments.device), labels, labels, 1, BATCH)]
    return lambda: score(*predict(network.evaluator(), batches))


def measure(arguments: argparse.Namespace, folder: Path, views: int) -> dict[str, float]:
    """Speeds and their ratios."""
    count = arguments.images if views else BATCH
    with (
        Side(build_textbook, arguments, folder, views, device=arguments.device) as plain,
        Side(build_ours, arguments, folder, views, device=arguments.device) as ours,
    ):
        costs = in_turn({"textbook": plain, "ours": ours}, arguments.repeats)
    return against_textbook(costs, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/evaluation.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="afa_images_") as folder:
        make_images(Path(folder), arguments.images)
        results = {title: measure(arguments, Path(folder), views) for title, views in PASSES.items()}
    rows = [
        [
            title,
            f"{result['textbook_images_per_second']:.1f}",
            f"{result['images_per_second']:.1f}",
            f"{result['times_textbook_wall']:.2f}",
            f"{result['times_textbook_cpu']:.2f}",
        ]
        for title, result in results.items()
    ]
    print(f"{arguments.network}, 224 pixels, {torch.get_num_threads()} threads, median of {arguments.repeats}")
    print(format_table(["evaluation", "textbook img/s", "ours img/s", "times", "(CPU s)"], rows))
    options = {"network": arguments.network, "images": arguments.images, "repeats": arguments.repeats}
    write(arguments.json, arguments.device, **options, figures=results)


if __name__ == "__main__":
    main()
