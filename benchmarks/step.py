"""Time a training step with images already on the device: AFA, the textbook, and the limit.

The *limit* is a training step of the target alone in channels_last (cross-entropy, fused SGD) and a plain
channels_last forward pass of the source up to its last aligned layer, without any method, in the precision of AFA.

    python benchmarks/step.py                                             # MobileNetV2 and ResNet-101, AST and ACT
    python benchmarks/step.py --device cuda --precision bf16 --compile    # on a GPU: batch 64, 20 repeats
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
from afa.machine.device import keep_freed_memory
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.results.outcomes import format_table
from afa.training.engine import Learner, train_step
from afa.training.learner import Start, build_learner
from afa.training.numerics import Precision, products_in_tf32

CLASSES = 120
ALPHA = {"ast": 1e-4, "act": 1e-4}  # small: with random weights the maps differ more than those of trained networks


def network_of(backbone: str, device: torch.device) -> torch.nn.Module:
    """A network with the same weights at each call."""
    torch.manual_seed(0)
    return build_network(backbone, CLASSES).to(device)


def batch_of(arguments: argparse.Namespace, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) images and (B,) labels, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, generator=generator)
    labels = torch.randint(CLASSES, (arguments.batch,), generator=generator)
    return images.contiguous(memory_format=layout).to(arguments.device), labels.to(arguments.device)


def build_textbook(arguments: argparse.Namespace, backbone: str, method: str) -> Work:
    """One step of the textbook."""
    images, labels = batch_of(arguments, torch.contiguous_format)
    networks = [network_of(backbone, arguments.device) for _ in range(2)]
    trainer = textbook.Trainer(*networks, BACKBONES[backbone].aligned_layers, method, ALPHA[method], arguments.size)
    step = products_in_tf32(False)(trainer.step)  # a decorator, which forbids torch's default on GPUs
    return lambda: step(images, labels)


def learner_of(arguments: argparse.Namespace, backbone: str, method: str) -> Learner:
    """What AFA trains."""
    learner = build_learner(
        BackboneSettings(backbone),
        StageSettings(method, alpha=ALPHA[method]),
        start=Start(network_of(backbone, CPU).state_dict(), "benchmark", with_head=True),
        num_classes=CLASSES,
        image_size=arguments.size,
        seed=1,
        device=arguments.device,
        compute=ComputeSettings(
            precision=arguments.precision, compile=arguments.compile, channels_last=arguments.channels_last
        ),
    )
    learner.target.train()
    return learner


def build_ours(arguments: argparse.Namespace, backbone: str, method: str) -> Work:
    """One step of AFA."""
    keep_freed_memory(arguments.device)  # as a run does
    images, labels = batch_of(arguments, torch.channels_last)
    learner = learner_of(arguments, backbone, method)
    return lambda: train_step(learner, images, labels)


def build_limit(arguments: argparse.Namespace, backbone: str) -> Work:
    """One step without a method, on the layout, in the precision and with the compiler of AFA."""
    keep_freed_memory(arguments.device)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    precision = Precision(arguments.precision, arguments.device)
    images, labels = batch_of(arguments, layout)
    target = network_of(backbone, arguments.device).to(memory_format=layout).train()
    layers = list(BACKBONES[backbone].aligned_layers)
    source = create_feature_extractor(network_of(backbone, arguments.device).eval(), layers)
    source = source.to(memory_format=layout).eval()
    optimizer = torch.optim.SGD(target.parameters(), lr=0.01, momentum=0.9, fused=True)
    forward = torch.compile(target, dynamic=False) if arguments.compile else target

    def step() -> None:
        with precision.products():  # torch's default for convolutions on a GPU is TF32
            with precision.autocast():
                with torch.no_grad():
                    source(images)
                logits = forward(images)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

    return step


def measure(arguments: argparse.Namespace, backbone: str, method: str) -> dict[str, float]:
    """Speeds, ratios and peak memory."""
    with (
        Side(build_textbook, arguments, backbone, method, device=arguments.device) as plain,
        Side(build_ours, arguments, backbone, method, device=arguments.device) as ours,
        Side(build_limit, arguments, backbone, device=arguments.device) as limit,
    ):
        # Memory that a process uses for the first time is slow: the speed is stable after two rounds.
        costs = in_turn({"textbook": plain, "ours": ours, "limit": limit}, arguments.repeats, warm_up=2)
        of_limit = ratio(costs["ours"], costs["limit"])
        return {
            **against_textbook(costs, arguments.batch),
            "of_limit_wall": of_limit.wall,
            "of_limit_cpu": of_limit.cpu,
            "textbook_peak_gib": plain.peak_gib(),
            "peak_gib": ours.peak_gib(),
        }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2", "resnet101"])
    parser.add_argument("--methods", nargs="+", default=["ast", "act"], choices=["ast", "act"])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--precision", default="fp32", help="of AFA and the limit; the textbook keeps fp32")
    parser.add_argument("--compile", action="store_true", help="compile the target of AFA and of the limit")
    parser.add_argument("--no-channels-last", dest="channels_last", action="store_false")
    parser.add_argument("--batch", type=int, help="default: 32 on a CPU, where ResNet-101 needs 20 GiB; 64 on a GPU")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, help="default: 3 on a CPU, 20 on a GPU")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/step.json"))
    arguments = parser.parse_args()
    arguments.batch = arguments.batch or (32 if arguments.device.type == "cpu" else 64)
    arguments.repeats = arguments.repeats or (3 if arguments.device.type == "cpu" else 20)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    results = {
        name: {method: measure(arguments, name, method) for method in arguments.methods} for name in arguments.networks
    }
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
            f"{result['textbook_images_per_second']:.2f}",
            f"{result['images_per_second']:.2f}",
            f"{result['times_textbook_wall']:.2f}",
            f"{result['times_textbook_cpu']:.2f}",
            f"{result['of_limit_wall']:.2f}",
            f"{result['of_limit_cpu']:.2f}",
            f"{result['textbook_peak_gib']:.2f}, {result['peak_gib']:.2f}",
        ]
        for backbone, methods in results.items()
        for method, result in methods.items()
    ]
    threads = torch.get_num_threads()
    print(f"batch {arguments.batch}, {arguments.size} pixels, {threads} threads, median of {arguments.repeats}")
    print(format_table(header, rows))
    options = {name: getattr(arguments, name) for name in ("batch", "size", "repeats", "precision", "compile")}
    write(arguments.json, arguments.device, **options, results=results)


if __name__ == "__main__":
    main()
