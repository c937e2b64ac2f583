"""Time DELTA's channel weights: forward passes from the ablated layer on, against complete forward passes.

    python benchmarks/channel_importance.py [--backbone resnet50] [--image-size 224] [--batch 8] [--channels 4]

In each aligned layer a few channels are ablated both ways, in turn, with random images and
weights. Prints the seconds per channel, the difference of the two results relative to the
loss, and the seconds for all channels of all layers; writes JSON.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import write

from afa.machine.device import keep_freed_memory
from afa.networks.ablation import ChannelAblation
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.results.outcomes import format_table
from afa.training.numerics import products_in_tf32

CLASSES = 100


def clock(device: torch.device) -> float:
    """CPU seconds of this process, which exclude other programs of the machine; on a GPU, wall-clock seconds."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def naive_increase(network: nn.Module, layer: str, channel: int, images: Tensor, labels: Tensor) -> Tensor:
    """Loss of the complete network with the weights of one filter set to zero."""
    convolution = network.get_submodule(layer)
    kept = convolution.weight[channel].clone()
    convolution.weight[channel] = 0
    loss = F.cross_entropy(network(images), labels)
    convolution.weight[channel] = kept
    return loss


@products_in_tf32(False)
def time_layer(network: nn.Module, layer: str, channels: int, images: Tensor, labels: Tensor) -> dict:
    """Seconds per channel both ways, measured on ``channels`` channels, and the difference of the results.

    The work that all channels of a layer and batch share (the layers before the ablated one,
    the loss without ablation) is timed separately.
    """
    ablation = ChannelAblation(network, layer)
    count = network.get_submodule(layer).out_channels
    naive, cut, differences = [], [], []
    with torch.inference_mode():
        loss = F.cross_entropy(network(images), labels)
    began = clock(images.device)
    chunks = ablation.increases(images, labels)
    first = next(chunks)  # includes the shared work
    first_seconds = clock(images.device) - began
    done = 0
    while done < channels:
        began = clock(images.device)
        chunk = next(chunks)
        cut.append((clock(images.device) - began) / len(chunk))
        start = len(first) + done
        for index in range(min(len(chunk), channels - done)):
            began = clock(images.device)
            ablated = naive_increase(network, layer, start + index, images, labels)
            naive.append(clock(images.device) - began)
            differences.append(abs(float(ablated - loss) - float(chunk[index])) / float(loss))
        done += len(chunk)
    each = statistics.median(cut)
    once = max(first_seconds - len(first) * each, 0.0)
    return {
        "layer": layer,
        "channels": count,
        "naive_seconds_a_channel": statistics.median(naive),
        "cut_seconds_a_channel": each,
        "cut_seconds_once": once,
        "largest_relative_difference": max(differences),
        "naive_seconds_all": count * statistics.median(naive),
        "cut_seconds_all": count * each + once,
    }


def main() -> None:
    """Time each aligned layer, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", choices=BACKBONES)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=4, help="channels of each layer that are timed both ways")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/channel_importance.json"))
    arguments = parser.parse_args()
    keep_freed_memory(arguments.device)  # as a run does; it helps both sides
    torch.manual_seed(0)
    network = build_network(arguments.backbone, CLASSES).eval().to(arguments.device)
    images = torch.randn(arguments.batch, 3, arguments.image_size, arguments.image_size, device=arguments.device)
    labels = torch.randint(CLASSES, (arguments.batch,), device=arguments.device)
    layers = [
        time_layer(network, layer, arguments.channels, images, labels)
        for layer in BACKBONES[arguments.backbone].aligned_layers
    ]
    report(arguments, layers)


def report(arguments: argparse.Namespace, layers: list[dict]) -> None:
    """Print the table and write the file."""
    naive, cut = (sum(row[f"{way}_seconds_all"] for row in layers) for way in ("naive", "cut"))
    rows = [
        [
            row["layer"],
            str(row["channels"]),
            f"{row['naive_seconds_a_channel']:.4f}",
            f"{row['cut_seconds_a_channel']:.4f}",
            f"{row['naive_seconds_a_channel'] / row['cut_seconds_a_channel']:.1f}",
            f"{row['largest_relative_difference']:.1e}",
        ]
        for row in layers
    ]
    print(format_table(["layer", "channels", "naive s", "cut s", "times", "difference / loss"], rows))
    print(f"all channels, one batch: {naive:.0f} s naive, {cut:.0f} s cut: {naive / cut:.1f} times faster")
    options = {key: value for key, value in vars(arguments).items() if key not in ("json", "device")}
    sums = {"naive_seconds": naive, "cut_seconds": cut, "times_faster": naive / cut}
    write(arguments.json, arguments.device, **options, layers=layers, **sums)


if __name__ == "__main__":
    main()
