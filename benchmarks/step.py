"""A training step, images already on the device: this program, the textbook, and the limit.

The *limit* is the target's own training step in channels_last (cross-entropy, fused SGD) and the source's plain
channels_last forward up to its last aligned layer: no method at all.

    python benchmarks/step.py                                             # MobileNetV2 and ResNet-101, AST and ACT
    python benchmarks/step.py --device cuda --precision bf16 --compile    # on a card: batch 64, 20 repeats
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

sys.path.insert(0, str(Path(__file__).parents[1]))
import textbook
from timing import in_turn, median, ratio, write

from afa.config.settings import BackboneSettings, ComputeSettings, StageSettings
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.results.figures import format_table
from afa.training.device import keep_freed_memory
from afa.training.engine import train_step
from afa.training.setup import Start, build_learner

CLASSES = 120
ALPHA = {"ast": 1e-4, "act": 1e-4}  # of random weights the maps differ more than a trained network's
Work = Callable[[], object]


class Sides:
    """Builds a side's step, all from the same weights and on the same batch."""

    def __init__(self, words: argparse.Namespace, backbone: str) -> None:
        torch.manual_seed(0)
        self.words, self.backbone, self.device = words, backbone, torch.device(words.device)
        self.state = build_network(backbone, CLASSES).state_dict()
        self.layers = BACKBONES[backbone].aligned_layers
        self.images = torch.randn(words.batch, 3, words.size, words.size, device=self.device)
        self.labels = torch.randint(CLASSES, (words.batch,), device=self.device)

    def network(self) -> torch.nn.Module:
        network = build_network(self.backbone, CLASSES)
        network.load_state_dict(self.state)
        return network.to(self.device)

    def build(self, name: str) -> Work:
        """``limit``, ``textbook ast``, ``ours act``, ..."""
        if name == "limit":
            return self._limit()
        side, method = name.split()
        return self._textbook(method) if side == "textbook" else self._ours(method)

    def _textbook(self, method: str) -> Work:
        trainer = textbook.Trainer(self.network(), self.network(), self.layers, method, ALPHA[method], self.words.size)
        return lambda: trainer.step(self.images, self.labels)

    def _ours(self, method: str) -> Work:
        learner = build_learner(
            BackboneSettings(self.backbone),
            StageSettings(method, alpha=ALPHA[method]),
            start=Start(self.state, "benchmark", with_head=True),
            num_classes=CLASSES,
            image_size=self.words.size,
            seed=1,
            device=self.device,
            compute=ComputeSettings(precision=self.words.precision, compile=self.words.compile),
        )
        learner.target.train()
        images = self.channels_last()
        return lambda: train_step(learner, images, self.labels)

    def _limit(self) -> Work:
        layout, images = torch.channels_last, self.channels_last()
        target = self.network().to(memory_format=layout).train()
        source = create_feature_extractor(self.network().eval(), list(self.layers)).to(memory_format=layout).eval()
        optimizer = torch.optim.SGD(target.parameters(), lr=0.01, momentum=0.9, fused=True)

        def step() -> None:
            with torch.no_grad():
                source(images)
            optimizer.zero_grad()
            F.cross_entropy(target(images), self.labels).backward()
            optimizer.step()

        return step

    def channels_last(self) -> Tensor:
        return self.images.contiguous(memory_format=torch.channels_last)


def peak_memory(words: argparse.Namespace, backbone: str, side: str) -> float:
    """GiB at most during two steps, in a process of its own."""
    own = ["--networks", backbone, "--memory", side, "--batch", str(words.batch), "--size", str(words.size)]
    own += ["--device", words.device, "--precision", words.precision, *["--compile"] * words.compile]
    done = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(words: argparse.Namespace) -> None:
    """What ``peak_memory`` reads."""
    work = Sides(words, words.networks[0]).build(words.memory)
    work()
    work()
    on_card = words.device != "cpu"
    peak = torch.cuda.max_memory_allocated() if on_card else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / 2**30)


def measure(words: argparse.Namespace, backbone: str) -> dict[str, dict[str, float]]:
    """Method -> figures."""
    sides, names = Sides(words, backbone), ["limit"]
    for method in words.methods:
        names += [f"textbook {method}", f"ours {method}"]
    costs = in_turn({name: sides.build(name) for name in names}, words.repeats, sides.device)
    results = {}
    for method in words.methods:
        plain, own = costs[f"textbook {method}"], costs[f"ours {method}"]
        results[method] = {
            "textbook_images_per_second": words.batch / median(plain).wall,
            "images_per_second": words.batch / median(own).wall,
            **{f"times_textbook_{unit}": value for unit, value in ratio(plain, own)._asdict().items()},
            **{f"of_limit_{unit}": value for unit, value in ratio(own, costs["limit"])._asdict().items()},
            "textbook_peak_gib": peak_memory(words, backbone, f"textbook {method}"),
            "peak_gib": peak_memory(words, backbone, f"ours {method}"),
        }
    return results


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2", "resnet101"])
    parser.add_argument("--methods", nargs="+", default=["ast", "act"], choices=["ast", "act"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="of this program; the other sides keep fp32")
    parser.add_argument("--compile", action="store_true", help="this program's target")
    parser.add_argument("--batch", type=int, help="16 on a CPU, 64 on a card")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, help="3 on a CPU, 20 on a card")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/step.json"))
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    words = parser.parse_args()
    # With fewer images and one thread, torch does not use oneDNN for convolutions of one pixel.
    words.batch = words.batch or (16 if words.device == "cpu" else 64)
    words.repeats = words.repeats or (3 if words.device == "cpu" else 20)
    return words


def main() -> None:
    words = arguments()
    if words.device == "cpu":
        keep_freed_memory()  # as a run on the CPU does; both sides gain
    if words.memory:
        print_memory(words)
        return
    results = {backbone: measure(words, backbone) for backbone in words.networks}
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
    write(words.json, torch.device(words.device), **told, results=results)


if __name__ == "__main__":
    main()
