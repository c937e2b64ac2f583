"""How training is initialised: networks, objective and optimiser of one stage."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afa.config.settings import BackboneSettings, StageSettings
from afa.errors import CheckpointError, one_line
from afa.method.catalogue import METHODS
from afa.method.objectives import MapShape, Objective
from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network, head_keys, load_backbone, load_source_weights
from afa.networks.features import FeatureNetwork, FrozenSource
from afa.networks.weights import load_state
from afa.training.checkpoint import Checkpoint
from afa.training.engine import Learner
from afa.training.optim import build_optimizer


class Start(NamedTuple):
    """Weights that a stage starts from; ``with_head`` if the head goes on from them too (stage two)."""

    state: dict[str, Tensor]
    origin: str
    with_head: bool

    @property
    def sha256(self) -> str:
        """Digest of all names and values."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def source_start(backbone: BackboneSettings) -> Start:
    """Stage one: the pre-trained source's weights, and a new head."""
    state, origin = load_source_weights(backbone.name, backbone.source_weights)
    return Start(state, origin, with_head=False)


def checkpoint_start(checkpoint: Checkpoint, path: Path, backbone: BackboneSettings, classes: Sequence[str]) -> Start:
    """Stage two: the whole of the network that stage one trained.

    Raises:
        CheckpointError: it is of another network or other classes.
    """
    check_fit(checkpoint, path, backbone.name, classes)
    return Start(checkpoint.model, str(path), with_head=True)


def build_learner(
    backbone: BackboneSettings,
    stage: StageSettings,
    *,
    start: Start,
    num_classes: int,
    image_size: int,
    seed: int,
    device: torch.device,
) -> Learner:
    """Everything a stage trains, on ``device``, as a function of the settings, ``seed`` and ``start``.

    1. The global generator is seeded; the head, then the attention draw from it, later dropout.
    2. The target gets the start's weights: the backbone's, and the head's in stage two.
    3. The source is built afresh, gets the same backbone weights, and is frozen.
    4. The objective holds new attentive modules, sized by a dry forward at ``image_size``.
    5. The optimiser holds backbone, head and attention.
    """
    torch.manual_seed(seed)
    method = METHODS[stage.method]
    layers = aligned_layers(backbone)
    network = build_network(backbone.name, num_classes)
    if start.with_head:
        load_state(network, start.state, start.origin)
    else:
        load_backbone(network, start.state, start.origin)
    target = FeatureNetwork(network, layers).to(device)
    if not method.trains_backbone:
        target.freeze_backbone()
    source = build_source(backbone, start, device) if method.needs_source else None
    shapes = target.map_shapes(image_size)
    objective = Objective(
        method,
        shapes,
        head=target.head_parameters(),
        backbone=target.backbone_parameters(),
        alpha=stage.alpha,
        gamma=stage.head_penalty,
        classification=stage.classification,
        channel_weights=load_channel_weights(Path(stage.channel_weight_path), shapes)
        if "delta" in method.alignments
        else (),
    ).to(device)
    optimizer = build_optimizer(
        target, objective, learning_rate=stage.learning_rate, momentum=stage.momentum, weight_decay=stage.weight_decay
    )
    return Learner(target, source, objective, optimizer, device, stage.grad_clip)


def build_source(backbone: BackboneSettings, start: Start, device: torch.device) -> FrozenSource:
    """The frozen network with the start's backbone weights; draws nothing from the global generator."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(backbone.name, 1)
    load_backbone(network, start.state, start.origin)
    return FrozenSource(network, aligned_layers(backbone), device)


def build_target(
    backbone: BackboneSettings, checkpoint: Checkpoint, path: Path, classes: Sequence[str]
) -> FeatureNetwork:
    """A trained network for evaluation: no source, no attention (SPEC section 2)."""
    check_fit(checkpoint, path, backbone.name, classes)
    network = build_network(backbone.name, len(classes))
    load_state(network, checkpoint.model, path)
    return FeatureNetwork(network, ())


def aligned_layers(backbone: BackboneSettings) -> tuple[str, ...]:
    """The config's layers, or the paper's."""
    return backbone.aligned_layers or BACKBONES[backbone.name].aligned_layers


def check_fit(checkpoint: Checkpoint, path: Path, name: str, classes: Sequence[str]) -> None:
    """Raises CheckpointError where a checkpoint's network or classes are not those asked for."""
    if checkpoint.backbone and checkpoint.backbone != name:
        raise CheckpointError(f"{path}: holds a {checkpoint.backbone}; base_model_name is {name}")
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = build_network(name, len(classes))
    bias = head_keys(network)[-1]
    if bias not in checkpoint.model:
        raise CheckpointError(
            f"{path}: holds no {name}: its head {bias} is missing (keys begin with {next(iter(checkpoint.model))})"
        )
    outputs = len(checkpoint.model[bias])
    if outputs != len(classes):
        raise CheckpointError(f"{path}: its head has {outputs} classes; the data set has {len(classes)}")
    different = [pair for pair in zip(checkpoint.classes, classes, strict=False) if pair[0] != pair[1]]
    if different:
        raise CheckpointError(
            f"{path}: trained on other classes: '{different[0][0]}' where the data set has '{different[0][1]}'"
        )


def load_channel_weights(path: Path, shapes: Sequence[MapShape]) -> list[Tensor]:
    """DELTA's channel weights from JSON: one list a layer, (C,) each.

    Raises:
        CheckpointError: no such file, not JSON, or lists that do not fit the aligned layers.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        weights = [torch.tensor(values, dtype=torch.float32) for values in lists]
    except (OSError, ValueError, TypeError, OverflowError, RuntimeError) as error:  # RecursionError is the last's
        raise CheckpointError(
            f"{path}: no JSON of channel weights, one list of numbers a layer: {one_line(error)}"
        ) from None
    got, wanted = [tuple(w.shape) for w in weights], [(shape.channels,) for shape in shapes]
    if got != wanted:
        shown = f"{got[:8]}{' and more' if len(got) > 8 else ''}"
        raise CheckpointError(f"{path}: holds lists of shapes {shown}; the aligned layers have {wanted} channels")
    if not all(w.isfinite().all() and (w >= 0).all() for w in weights):
        raise CheckpointError(f"{path}: holds a weight that is no number from 0 on")
    return weights
