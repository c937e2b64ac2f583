"""How training is initialised: networks, objective and optimiser of one stage."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afa.config.settings import BackboneSettings, ComputeSettings, StageSettings
from afa.errors import CheckpointError, one_line
from afa.method.aligned_maps import AttentiveTerm
from afa.method.catalogue import METHODS
from afa.method.objectives import Objective, what_is_read
from afa.method.term import Given, MapShape
from afa.networks.backbones import layers_of
from afa.networks.batch_norm import share_batch_norm
from afa.networks.build import build_network, head_keys, head_name, load_backbone, load_source_weights, old_head
from afa.networks.features import FeatureNetwork, FrozenSource
from afa.networks.weights import load_state
from afa.training.checkpoint import Checkpoint
from afa.training.engine import Learner
from afa.training.optim import build_optimizer
from afa.training.precision import Precision

_DEFAULTS = ComputeSettings()


class Start(NamedTuple):
    """Weights that a stage starts from; ``with_head`` if the head goes on from them too (stage two)."""

    state: dict[str, Tensor]
    origin: str
    with_head: bool

    @property
    def sha256(self) -> str:
        """Digest of all names and values."""
        return digest(self.state)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal digest of all names and values."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(name.encode())
        sha256.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()


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
    source_from: Start | None = None,
    fixed_weights: Sequence[Tensor] = (),
    compute: ComputeSettings = _DEFAULTS,
    sync_bn: bool = False,
) -> Learner:
    """Everything a stage trains, on ``device``, as a function of the settings, ``seed`` and the weights given.

    1. The global generator is seeded; the head, then the attention draw from it, later dropout.
    2. The target gets the start's weights: the backbone's, and the head's in stage two.
    3. The source is built afresh, gets the same backbone weights (or those of ``source_from``), and is frozen.
    4. The objective holds new attentive modules, sized by a dry forward at ``image_size``.
    5. The optimiser holds backbone, head, and what the objective trains.

    ``fixed_weights``: one tensor a layer, for a method whose row asks for them (``fixed_weights.py``).
    ``sync_bn``: the target's batch-norm is over the images of all processes.
    """
    torch.manual_seed(seed)
    method = METHODS[stage.method]
    layers = aligned_layers(backbone)
    memory_format = torch.channels_last if compute.channels_last else torch.contiguous_format
    network = build_network(backbone.name, num_classes)
    if start.with_head:
        load_state(network, start.state, start.origin)
    else:
        load_backbone(network, start.state, start.origin)
    if sync_bn:
        network = share_batch_norm(network, device)
    reads = what_is_read(method)
    target = FeatureNetwork(network, layers, memory_format, with_head_input="old_head" in reads).to(device)
    if not method.trains_backbone:
        target.freeze_backbone()
    source_from = source_from or start
    given = Given(
        shapes=target.map_shapes(image_size),
        fixed_weights=fixed_weights,
        backbone=target.backbone_parameters(),
        old_head=old_head(network, source_from.state, source_from.origin) if "old_head" in reads else None,
    )
    objective = Objective(
        method,
        given,
        head=target.head_parameters(),
        alpha=stage.alpha,
        gamma=stage.head_penalty,
        classification=stage.classification,
    ).to(device)
    optimizer = build_optimizer(
        target, objective, learning_rate=stage.learning_rate, momentum=stage.momentum, weight_decay=stage.weight_decay
    )
    if compute.compile:
        target.compile_training()
    precision = Precision(compute.precision, device)
    return Learner(
        target=target,
        source=build_source(backbone, source_from, reads, device, memory_format),
        objective=objective,
        optimizer=optimizer,
        device=device,
        precision=precision,
        scaler=precision.build_scaler(),
        grad_clip=stage.grad_clip,
    )


def build_source(
    backbone: BackboneSettings,
    start: Start,
    reads: Collection[str],
    device: torch.device,
    memory_format: torch.memory_format = torch.channels_last,
) -> FrozenSource | None:
    """The frozen network with the start's weights, as far as it is read; draws nothing from the global generator."""
    if not {"maps", "old_head"} & set(reads):
        return None
    layers = aligned_layers(backbone) if "maps" in reads else ()
    with torch.random.fork_rng(devices=[]):
        network = build_network(backbone.name, 1)
        if "old_head" in reads:
            network = build_network(backbone.name, len(old_head(network, start.state, start.origin)[1]))
            layers += (head_name(network),)
            load_state(network, start.state, start.origin)
        else:
            load_backbone(network, start.state, start.origin)
    return FrozenSource(network, layers, device, memory_format)


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
    return layers_of(backbone.name, backbone.aligned_layers)


def aligned_shapes(backbone: BackboneSettings, image_size: int) -> list[MapShape]:
    """Shapes of the aligned layers' maps; draws nothing from the global generator."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(backbone.name, 1)
    return FeatureNetwork(network, aligned_layers(backbone)).map_shapes(image_size)


def attention_state(checkpoint: Checkpoint, kind: type[AttentiveTerm]) -> dict[str, Tensor]:
    """The state of a trained stage's attentive modules of one kind; empty where it has none."""
    prefix = f"alignments.{kind.name}."
    return {name.removeprefix(prefix): v for name, v in checkpoint.attention.items() if name.startswith(prefix)}


def build_attention(
    kind: type[AttentiveTerm], state: Mapping[str, Tensor], shapes: Sequence[MapShape], path: Path, image_size: int
) -> AttentiveTerm:
    """Trained attentive modules over maps of ``shapes``, from ``attention_state``.

    Raises:
        CheckpointError: they are damaged, or of maps of other shapes.
    """
    term = kind(Given(shapes=shapes))
    try:
        term.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its attention does not fit image_size = {image_size}: {one_line(error)}"
        ) from None
    return term


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
