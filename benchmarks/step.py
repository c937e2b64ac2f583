"""A training step, images already on the device: this program, the textbook, and the limit.

The *limit* is the target's own training step in channels_last (cross-entropy, fused SGD) and the source's plain
channels_last forward up to its last aligned layer: no method at all.

    python benchmarks/step.py                                             # MobileNetV2 and ResNet-101, AST and ACT
    python benchmarks/step.py --device cuda --precision bf16 --compile    # on a card: batch 64, 20 repeats
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

sys.path.insert(0, str(Path(__file__).parents[1]))
import textbook
from timing import CPU, Side, Work, against_textbook, in_turn, ratio, write

from afa.config.settings import BackboneSettings, ComputeSettings, StageSettings
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.results.figures import format_table
from afa.training.device import keep_freed_memory
from afa.training.engine import train_step
from afa.training.setup import Start, build_learner

CLASSES = 120
ALPHA = {"ast": 1e-4, "act": 1e-4}  # of random weights the maps differ more than a trained network's


def network_of(backbone: str, device: torch.device) -> torch.nn.Module:
    """The same weights at each call."""
    torch.manual_seed(0)
    return build_network(backbone, CLASSES).to(device)


def batch_of(words: argparse.Namespace, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) images and (B,) labels, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(words.batch, 3, words.size, words.size, generator=generator)
    labels = torch.randint(CLASSES, (words.batch,), generator=generator)
    return images.contiguous(memory_format=layout).to(words.device), labels.to(words.device)


def build_textbook(words: argparse.Namespace, backbone: str, method: str) -> Work:
    """The textbook's step."""
    images, labels = batch_of(words, torch.contiguous_format)
    networks = [network_of(backbone, words.device) for _ in range(2)]
    trainer = textbook.Trainer(*networks, BACKBONES[backbone].aligned_layers, method, ALPHA[method], words.size)
    return lambda: trainer.step(images, labels)


def build_ours(words: argparse.Namespace, backbone: str, method: str) -> Work:
    """This program's step."""
    keep_freed_memory(words.device)  # as a run does
    images, labels = batch_of(words, torch.channels_last)
    learner = build_learner(
        BackboneSettings(backbone),
        StageSettings(method, alpha=ALPHA[method]),
        start=Start(network_of(backbone, CPU).state_dict(), "benchmark", with_head=True),
        num_classes=CLASSES,
        image_size=words.size,
        seed=1,
        device=words.device,
        compute=ComputeSettings(precision=words.precision, compile=words.compile),
    )
    learner.target.train()
    return lambda: train_step(learner, images, labels)


def build_limit(words: argparse.Namespace, backbone: str) -> Work:
    """A step without a method."""
    keep_freed_memory(words.device)
    layout = torch.channels_last
    images, labels = batch_of(words, layout)
    target = network_of(backbone, words.device).to(memory_format=layout).train()
    layers = list(BACKBONES[backbone].aligned_layers)
    source = create_feature_extractor(network_of(backbone, words.device).eval(), layers).to(memory_format=layout).eval()
    optimizer = torch.optim.SGD(target.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step() -> None:
        with torch.no_grad():
            source(images)
        optimizer.zero_grad()
        F.cross_entropy(target(images), labels).backward()
        optimizer.step()

    return step


def measure(words: argparse.Namespace, backbone: str, method: str) -> dict[str, float]:
    """Speeds, ratios and peak memory."""
    with (
        Side(build_textbook, words, backbone, method, device=words.device) as plain,
        Side(build_ours, words, backbone, method, device=words.device) as ours,
        Side(build_limit, words, backbone, device=words.device) as limit,
    ):
        # Memory that a process has not had before is slow: two rounds until the sides keep their pace.
        costs = in_turn({"textbook": plain, "ours": ours, "limit": limit}, words.repeats, warm_up=2)
        of_limit = ratio(costs["ours"], costs["limit"])
        return {
            **against_textbook(costs, words.batch),
            "of_limit_wall": of_limit.wall,
            "of_limit_cpu": of_limit.cpu,
            "textbook_peak_gib": plain.peak_gib(),
            "peak_gib": ours.peak_gib(),
        }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2", "resnet101"])
    parser.add_argument("--methods", nargs="+", default=["ast", "act"], choices=["ast", "act"])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--precision", default="fp32", help="of this program; the other sides keep fp32")
    parser.add_argument("--compile", action="store_true", help="this program's target")
    parser.add_argument("--batch", type=int, help="32 on a CPU, where ResNet-101 takes 20 GiB; 64 on a card")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, help="3 on a CPU, 20 on a card")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/step.json"))
    words = parser.parse_args()
    words.batch = words.batch or (32 if words.device.type == "cpu" else 64)
    words.repeats = words.repeats or (3 if words.device.type == "cpu" else 20)
    return words


def main() -> None:
    words = arguments()
    results = {name: {method: measure(words, name, method) for method in words.methods} for name in words.networks}
    header = [
        "step",
        "textbook img/s",
        "ours img/s",
        "times",
        "(CPU s)",
        "of the limit",
        "(CPU s)",
        "GiB textbook, ours",
    ]
    rows = [
        [
            f"{backbone} {method}",
            f"{f['textbook_images_per_second']:.2f}",
            f"{f['images_per_second']:.2f}",
            f"{f['times_textbook_wall']:.2f}",
            f"{f['times_textbook_cpu']:.2f}",
            f"{f['of_limit_wall']:.2f}",
            f"{f['of_limit_cpu']:.2f}",
            f"{f['textbook_peak_gib']:.2f}, {f['peak_gib']:.2f}",
        ]
        for backbone, methods in results.items()
        for method, f in methods.items()
    ]
    print(f"batch {words.batch}, {words.size} pixels, {torch.get_num_threads()} threads, median of {words.repeats}")
    print(format_table(header, rows))
    told = {name: getattr(words, name) for name in ("batch", "size", "repeats", "precision", "compile")}
    write(words.json, words.device, **told, results=results)


if __name__ == "__main__":
    main()
