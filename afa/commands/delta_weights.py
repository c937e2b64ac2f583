"""DELTA's channel weights (Li et al., ICLR 2019): how much the loss increases without a filter.

1. A new linear head is trained on the frozen source: 10 epochs of L2-FE.
2. In eval mode, over four training batches, for every channel of the aligned layers: the loss with the filter's
   weights set to zero, minus the loss of the unchanged network (``networks/ablation.py``).
3. softmax(zscore(increase) / 5) over the channels of each layer.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afa.config.settings import StageSettings
from afa.files import read_json, write_json
from afa.machine.context import Context
from afa.method.alignment import delta_channel_weights
from afa.networks.ablation import ChannelAblation
from afa.networks.build import build_network
from afa.networks.weights import load_state
from afa.training.checkpoint import load_checkpoint
from afa.training.learner import aligned_layers, aligned_shapes, source_start
from afa.training.loop import train_stage
from afa.training.numerics import products_in_tf32
from afa.training.stage import Stage

BATCHES = 4
SECONDS_BETWEEN_SAVES = 5.0
_ENOUGH = 10.0  # seconds of a layer after which its estimate needs no second measurement
HEAD: dict[str, Any] = {
    "method": "l2_fe",
    "epochs": 10,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "explr",
    "decay_factor": 0.1,
}
"""Settings of the stage that trains the head."""

Increases = list[list[list[float]]]
"""Indexed by layer, batch and channel, as far as they are computed."""


def compute_channel_weights(stage: Stage, context: Context) -> list[Tensor]:
    """(C,) weights of each aligned layer.

    Intermediate results are the head's checkpoints in ``<stage>/head/`` and ``channel_increases.json``.

    Raises:
        StoppedError: a signal stopped it; the same command resumes.
        AFAError: see ``train_stage``; or a layer has channels that cannot be set to zero.
    """
    backbone, head = stage.settings.backbone, head_stage(stage)
    train_stage(head, context)
    network = build_network(backbone.name, len(stage.classes))
    load_state(network, load_checkpoint(head.folder.last).model, head.folder.last)
    path = stage.folder.path / "channel_increases.json"
    increases = _compute_increases(stage, network.to(context.device), path, context)
    means = [torch.tensor(layer, dtype=torch.float64).mean(dim=0) for layer in increases]
    return [delta_channel_weights(mean).float() for mean in means]


def head_stage(stage: Stage) -> Stage:
    """The stage that trains the head."""
    options = StageSettings(**HEAD, seed=stage.options.seed)
    return stage.nested("head", "head", options, source_start(stage.settings.backbone))


@products_in_tf32(False)
def estimate_increases(stage: Stage, context: Context) -> float:
    """Seconds that the increases of all channels take, from those of the first channels of each layer in one batch."""
    backbone, loader = stage.settings.backbone, stage.train_loader(context)
    network = build_network(backbone.name, len(stage.classes)).to(context.device)
    shapes = aligned_shapes(backbone, stage.preprocessing.image_size)
    batch = next(loader.epoch(0))
    seconds = 0.0
    for layer, shape in zip(aligned_layers(backbone), shapes, strict=True):
        chunks = ChannelAblation(network, layer).increases(batch.images, batch.labels)
        times, done = [time.monotonic()], 0
        for chunk in itertools.islice(chunks, 2):  # the first one includes the layers up to this one
            size = len(chunk.tolist())  # waits for the device
            times.append(time.monotonic())
            done += size
            context.signals.raise_if_stopped()
            if times[-1] - times[0] > _ENOUGH:
                break
        seconds += times[-1] - times[0] + (shape.channels - done) * (times[-1] - times[-2]) / size
    return min(BATCHES, len(loader)) * seconds


@products_in_tf32(False)
def _compute_increases(stage: Stage, network: nn.Module, path: Path, context: Context) -> Increases:
    """The increases of every layer, batch and channel; those in ``path`` are not computed again."""
    layers, loader = aligned_layers(stage.settings.backbone), stage.train_loader(context)
    shapes = aligned_shapes(stage.settings.backbone, stage.preprocessing.image_size)
    channels = [shape.channels for shape in shapes]
    batches = min(BATCHES, len(loader))
    increases = _read_increases(path, channels, batches)
    done = sum(len(batch) for layer in increases for batch in layer)
    title, total = f"{stage.title}: channel weights", sum(channels) * batches
    with context.journal.progress(title, total, done=done, unit="channels") as bar:
        saved = time.monotonic()
        try:
            for index, layer in enumerate(layers):
                if all(len(batch) == channels[index] for batch in increases[index]):
                    continue
                ablation = ChannelAblation(network, layer)
                first_batches = itertools.islice(loader.epoch(0), batches)
                for own, batch in zip(increases[index], first_batches, strict=False):
                    for chunk in ablation.increases(batch.images, batch.labels, first=len(own)):
                        own += chunk.tolist()
                        if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                            write_json(path, increases)
                            saved = time.monotonic()
                        bar.update(len(chunk))
        finally:
            write_json(path, increases)
    return increases


def _read_increases(path: Path, channels: list[int], batches: int) -> Increases:
    """The increases that an earlier process computed; empty lists if there are none."""
    if not path.exists():
        return [[[] for _ in range(batches)] for _ in channels]

    def check(values: Any) -> Increases:
        increases: Increases = values
        shape = [len(layer) for layer in increases]
        if shape != [batches] * len(channels) or any(
            len(batch) > count or not all(isinstance(value, float) for value in batch)
            for layer, count in zip(increases, channels, strict=True)
            for batch in layer
        ):
            raise ValueError
        return increases

    return read_json(path, check)
