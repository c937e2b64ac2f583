"""DELTA's channel weights (Li et al., ICLR 2019): how much the loss grows when a filter is switched off.

1. A new linear head is trained on the frozen source: 10 epochs of L2-FE.
2. In eval mode, over four training batches: the loss with a filter's weights zeroed minus
   the loss without (``networks/ablation.py``), for every channel of the aligned layers.
3. softmax(zscore(increase) / 5) over the channels of each layer.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afa.config.layout import LAST
from afa.config.settings import StageSettings
from afa.data.loaders import Batch
from afa.method.alignment import delta_channel_weights
from afa.networks.ablation import ChannelAblation
from afa.networks.build import build_network
from afa.networks.weights import load_state
from afa.results.journal import Journal
from afa.results.records import read_json, write_json
from afa.training.checkpoint import load_checkpoint
from afa.training.job import StageJob
from afa.training.setup import aligned_layers, aligned_shapes, source_start
from afa.training.signals import Signals
from afa.training.stage import run_stage

BATCHES = 4
SECONDS_BETWEEN_SAVES = 5.0
HEAD = StageSettings(
    method="l2_fe", epochs=10, learning_rate=0.01, momentum=0.9, weight_decay=1e-4, schedule="explr", decay_factor=0.1
)
"""How the head is trained (SPEC section 5)."""

Increases = list[list[list[float]]]
"""Layer, batch, channel: as far as they are computed."""


def compute_channel_weights(job: StageJob, journal: Journal, signals: Signals) -> list[Tensor]:
    """(C,) weights of each aligned layer.

    Kept while it lasts: the head's checkpoints in ``<stage>/head/``, the increases in ``channel_increases.json``.

    Raises:
        StoppedError: a signal came; the same command goes on.
        AFAError: see ``StageRun.train``; a layer cannot be switched off channel by channel.
    """
    head = replace(
        job,
        stage=replace(HEAD, seed=job.stage.seed),
        start=source_start(job.backbone),
        source_from=None,
        folder=job.folder / "head",
        title=f"{job.title}: head",
    )
    run_stage(head, journal, signals)
    path = head.folder / LAST
    network = build_network(job.backbone.name, len(job.classes))
    load_state(network, load_checkpoint(path).model, path)
    increases = _all_increases(job, network.to(job.device), job.folder / "channel_increases.json", journal)
    means = [torch.tensor(layer, dtype=torch.float64).mean(dim=0) for layer in increases]
    return [delta_channel_weights(mean).float() for mean in means]


def _all_increases(job: StageJob, network: nn.Module, path: Path, journal: Journal) -> Increases:
    """The increases of every layer, batch and channel; those in ``path`` are not computed again."""
    layers = aligned_layers(job.backbone)
    channels = [shape.channels for shape in aligned_shapes(job.backbone, job.preprocessing.image_size)]
    batches = min(BATCHES, len(job.train_loader()))
    increases = _read_increases(path, channels, batches)
    done = sum(len(batch) for layer in increases for batch in layer)
    with journal.progress(f"{job.title}: channel weights", sum(channels) * batches, done=done, unit="channels") as bar:
        saved = time.monotonic()
        try:
            for place, layer in enumerate(layers):
                if all(len(batch) == channels[place] for batch in increases[place]):
                    continue
                ablation = ChannelAblation(network, layer)
                for own, batch in zip(increases[place], _first_batches(job), strict=False):
                    for chunk in ablation.increases(batch.images, batch.labels, first=len(own)):
                        own += chunk.tolist()
                        if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                            write_json(path, increases)
                            saved = time.monotonic()
                        bar.update(len(chunk))
        finally:
            write_json(path, increases)
    return increases


def _first_batches(job: StageJob) -> Iterator[Batch]:
    """The batches of the first epoch, as many as count."""
    return itertools.islice(job.train_loader().epoch(0), BATCHES)


def _read_increases(path: Path, channels: list[int], batches: int) -> Increases:
    """What an earlier process left; empty lists where there is nothing."""
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
