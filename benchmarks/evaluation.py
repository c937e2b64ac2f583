"""Evaluation: the network alone, and JPEG files to top-1, against a textbook's; one view an image and ten.

``python benchmarks/evaluation.py`` makes the JPEG files and times both sides in turn. *Warm*: the decoded pixels are
in the cache; a textbook decodes at each use. With ten views it decodes once too, and cuts, converts and normalises
each view by itself.
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
from afa.networks.features import FeatureNetwork
from afa.results.figures import format_table
from afa.training.device import keep_freed_memory
from afa.training.engine import predict, score

BATCH = 64
PASSES = {"network alone": 0, "one view, warm": 1, "ten views, warm": 10}
"""Title -> views an image; none: no files either."""


def one_batch(layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """(B, 3, 224, 224) images and (B,) labels."""
    images = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    return images.contiguous(memory_format=layout), torch.zeros(BATCH, dtype=torch.int64)


def build_textbook(words: argparse.Namespace, folder: Path, views: int) -> Work:
    """A pass of the textbook over the files; with 0 views over one batch on the device."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # 4 is the textbook's number
    network = network_of(words.network, words.device)
    if views:
        loader = textbook.test_loader(folder, BATCH, ten_crops=views == 10)
        return lambda: textbook.evaluate(network, loader, words.device)
    images, labels = one_batch(torch.contiguous_format)
    batch = images.to(words.device), labels
    return lambda: textbook.evaluate(network, [batch], words.device)


def build_ours(words: argparse.Namespace, folder: Path, views: int) -> Work:
    """The same pass of this program, with all decoded pixels in memory."""
    keep_freed_memory(words.device)  # as a run does
    network = FeatureNetwork(network_of(words.network, words.device), ())
    batches: Iterable[TestBatch]
    if views:
        split, preprocessing = scan_split(folder), Preprocessing(224, "improved" if views == 10 else "default")
        canvases = np.stack([read_canvas(path, preprocessing.test_canvas) for path in split.paths])
        batches = TestLoader(
            split, preprocessing, batch_size=BATCH, device=words.device, num_workers=0, canvases=canvases
        )
    else:
        images, labels = one_batch(torch.channels_last)
        batches = [TestBatch(images.to(words.device), labels, labels, 1, BATCH)]
    return lambda: score(*predict(network, batches))


def measure(words: argparse.Namespace, folder: Path, views: int) -> dict[str, float]:
    """Speeds and their ratio."""
    count = words.images if views else BATCH
    with (
        Side(build_textbook, words, folder, views, device=words.device) as plain,
        Side(build_ours, words, folder, views, device=words.device) as ours,
    ):
        costs = in_turn({"textbook": plain, "ours": ours}, words.repeats)
    return against_textbook(costs, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/evaluation.json"))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="afa_images_") as place:
        make_images(Path(place), words.images)
        figures = {title: measure(words, Path(place), views) for title, views in PASSES.items()}
    rows = [
        [
            title,
            f"{f['textbook_images_per_second']:.1f}",
            f"{f['images_per_second']:.1f}",
            f"{f['times_textbook_wall']:.2f}",
            f"{f['times_textbook_cpu']:.2f}",
        ]
        for title, f in figures.items()
    ]
    print(f"{words.network}, 224 pixels, {torch.get_num_threads()} threads, median of {words.repeats}")
    print(format_table(["evaluation", "textbook img/s", "ours img/s", "times", "(CPU s)"], rows))
    told = {"network": words.network, "images": words.images, "repeats": words.repeats}
    write(words.json, words.device, **told, figures=figures)


if __name__ == "__main__":
    main()
