"""DELTA's channel importance: the network cut at the layer, against whole forward passes, on the same channels.

    python benchmarks/channel_importance.py [--backbone resnet50] [--image-size 224] [--batch 8] [--channels 4]

For every aligned layer a few channels are switched off both ways, in turns, on random
images and weights. Prints the seconds a channel takes, how far the two results are apart
as a part of the loss, and what all channels of all layers would take; writes JSON.
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

from afa.networks.ablation import ChannelAblation
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.results.figures import format_table
from afa.training.device import keep_freed_memory

CLASSES = 100


def clock() -> float:
    """Seconds that this process has computed: other programs on the machine do not count; on a GPU, seconds passed."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def naive_increase(network: nn.Module, layer: str, channel: int, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of the whole network with one filter's weights zeroed."""
    convolution = network.get_submodule(layer)
    kept = convolution.weight[channel].clone()
    convolution.weight[channel] = 0
    loss = F.cross_entropy(network(images), labels)
    convolution.weight[channel] = kept
    return loss


def time_layer(network: nn.Module, layer: str, channels: int, images: Tensor, labels: Tensor) -> dict:
    """Seconds a channel takes both ways, from ``channels`` channels each, and how far the results are apart.

    What is done once a layer and batch (the part before the cut, the loss without a
    change) is timed apart: it is shared by all channels.
    """
    ablation = ChannelAblation(network, layer)
    count = network.get_submodule(layer).out_channels
    naive, cut, apart = [], [], []
    with torch.inference_mode():
        whole = F.cross_entropy(network(images), labels)
    begun = clock()
    chunks = ablation.increases(images, labels)
    first = next(chunks)  # with it what is done once
    first_seconds = clock() - begun
    done = 0
    while done < channels:
        begun = clock()
        chunk = next(chunks)
        cut.append((clock() - begun) / len(chunk))
        start = len(first) + done
        for place in range(min(len(chunk), channels - done)):
            begun = clock()
            loss = naive_increase(network, layer, start + place, images, labels)
            naive.append(clock() - begun)
            apart.append(abs(float(loss - whole) - float(chunk[place])) / float(whole))
        done += len(chunk)
    each = statistics.median(cut)
    once = max(first_seconds - len(first) * each, 0.0)
    return {
        "layer": layer,
        "channels": count,
        "naive_seconds_a_channel": statistics.median(naive),
        "cut_seconds_a_channel": each,
        "cut_seconds_once": once,
        "largest_relative_difference": max(apart),
        "naive_seconds_all": count * statistics.median(naive),
        "cut_seconds_all": count * each + once,
    }


def main() -> None:
    """Time every aligned layer, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", choices=BACKBONES)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=4, help="channels a layer, timed both ways")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/channel_importance.json"))
    words = parser.parse_args()
    keep_freed_memory(words.device)  # as a run does; both sides gain
    torch.manual_seed(0)
    network = build_network(words.backbone, CLASSES).eval().to(words.device)
    images = torch.randn(words.batch, 3, words.image_size, words.image_size, device=words.device)
    labels = torch.randint(CLASSES, (words.batch,), device=words.device)
    layers = [
        time_layer(network, layer, words.channels, images, labels) for layer in BACKBONES[words.backbone].aligned_layers
    ]
    report(words, layers)


def report(words: argparse.Namespace, layers: list[dict]) -> None:
    """The table, and the file."""
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
    print(format_table(["layer", "channels", "naive s", "cut s", "times", "apart / loss"], rows))
    print(f"all channels, one batch: {naive:.0f} s naive, {cut:.0f} s cut: {naive / cut:.1f} times faster")
    told = {key: value for key, value in vars(words).items() if key not in ("json", "device")}
    sums = {"naive_seconds": naive, "cut_seconds": cut, "times_faster": naive / cut}
    write(words.json, words.device, **told, layers=layers, **sums)


if __name__ == "__main__":
    main()
