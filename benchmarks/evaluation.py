"""Evaluation: the network alone, and JPEG files to top-1, against a textbook's; one view an image and ten.

``python benchmarks/evaluation.py`` makes the JPEG files and times both sides in turn. *Warm*: the decoded pixels are
in the cache; a textbook decodes at each use. With ten views it decodes once too, and cuts, converts and normalises
each view by itself.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import textbook
from images import make_images
from timing import in_turn, median, ratio, write

from afa.data.folders import scan_split
from afa.data.images import read_canvas
from afa.data.loaders import TestBatch, TestLoader
from afa.data.transforms import Preprocessing
from afa.networks.build import build_network
from afa.networks.features import FeatureNetwork
from afa.results.figures import format_table
from afa.training.device import keep_freed_memory
from afa.training.engine import predict, score

BATCH = 64
CLASSES = 120


def networks(name: str, device: torch.device) -> tuple[torch.nn.Module, FeatureNetwork]:
    """The textbook's and ours, with the same weights."""
    torch.manual_seed(0)
    plain = build_network(name, CLASSES)
    own = build_network(name, CLASSES)
    own.load_state_dict(plain.state_dict())
    return plain.to(device), FeatureNetwork(own, ()).to(device)


def loader_of(folder: Path, augmentation: str, device: torch.device) -> TestLoader:
    """This program's, with all decoded pixels in memory."""
    split, preprocessing = scan_split(folder), Preprocessing(224, augmentation)
    canvases = np.stack([read_canvas(path, preprocessing.test_canvas) for path in split.paths])
    return TestLoader(split, preprocessing, batch_size=BATCH, device=device, num_workers=0, canvases=canvases)


def measure(words: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """What is timed -> figures."""
    device = torch.device(words.device)
    plain, own = networks(words.network, device)
    images, labels = torch.randn(BATCH, 3, 224, 224, device=device), torch.zeros(BATCH, dtype=torch.int64)
    batches = [TestBatch(images.contiguous(memory_format=torch.channels_last), labels, labels, 1, BATCH)]
    pairs = {
        "network alone": (
            BATCH,
            lambda: textbook.evaluate(plain, [(images, labels)], device),
            lambda: score(*predict(own, batches)),
        )
    }
    for title, augmentation in (("one view, warm", "default"), ("ten views, warm", "improved")):
        ten = augmentation == "improved"
        slow, fast = textbook.test_loader(folder, BATCH, ten_crops=ten), loader_of(folder, augmentation, device)
        pairs[title] = (
            len(fast.folder),
            lambda slow=slow: textbook.evaluate(plain, slow, device),
            lambda fast=fast: score(*predict(own, fast)),
        )
    figures = {}
    for title, (count, textbooks, ours) in pairs.items():
        costs = in_turn({"textbook": textbooks, "ours": ours}, words.repeats, device)
        figures[title] = {
            "textbook_images_per_second": count / median(costs["textbook"]).wall,
            "images_per_second": count / median(costs["ours"]).wall,
            "times_textbook": ratio(costs["textbook"], costs["ours"]).wall,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/evaluation.json"))
    words = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # 4 is the textbook's number
    if words.device == "cpu":
        keep_freed_memory()  # as a run on the CPU does
    with tempfile.TemporaryDirectory(prefix="afa_images_") as place:
        make_images(Path(place), words.images)
        figures = measure(words, Path(place))
    rows = [
        [
            title,
            f"{f['textbook_images_per_second']:.1f}",
            f"{f['images_per_second']:.1f}",
            f"{f['times_textbook']:.2f}",
        ]
        for title, f in figures.items()
    ]
    print(f"{words.network}, 224 pixels, {torch.get_num_threads()} threads, median of {words.repeats}")
    print(format_table(["evaluation", "textbook img/s", "ours img/s", "times"], rows))
    told = {"network": words.network, "images": words.images, "repeats": words.repeats}
    write(words.json, torch.device(words.device), **told, figures=figures)


if __name__ == "__main__":
    main()
