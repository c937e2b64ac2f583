"""Builds the networks, the objective and the optimiser of one stage."""

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afa.config.settings import BackboneSettings, ComputeSettings, StageSettings
from afa.errors import CheckpointError, ConfigError, one_line
from afa.method.aligned_maps import AttentiveTerm
from afa.method.catalogue import METHODS
from afa.method.classification import balanced_weights
from afa.method.objectives import Objective, required_inputs
from afa.method.term import MapShape, TermInputs
from afa.networks.backbones import BACKBONES, layers_of, row_of
from afa.networks.build import build_network, find_layers, head_keys, load_backbone, load_source_weights, read_old_head
from afa.networks.features import FeatureNetwork, FrozenSource
from afa.networks.weights import load_state
from afa.training.checkpoint import Checkpoint
from afa.training.engine import Learner
from afa.training.numerics import Precision
from afa.training.optim import build_optimizer

_DEFAULTS = ComputeSettings()


class Start(NamedTuple):
    """Weights from which a stage starts; ``with_head`` if they include the head (stage two)."""

    state: dict[str, Tensor]
    origin: str
    with_head: bool

    def __repr__(self) -> str:
        return f"Start({len(self.state)} tensors from {self.origin}, with_head={self.with_head})"

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
    """Start of stage one: the weights of the pre-trained source, and a new head."""
    state, origin = load_source_weights(backbone.name, backbone.source_weights)
    return Start(state, origin, with_head=False)


def checkpoint_start(checkpoint: Checkpoint, path: Path, backbone: BackboneSettings, classes: Sequence[str]) -> Start:
    """Start of stage two: the network that stage one trained, head included.

    Raises:
        CheckpointError: it is another network, or has other classes.
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
    class_images: Sequence[int] = (),
    compute: ComputeSettings = _DEFAULTS,
    sync_bn: bool = False,
) -> Learner:
    """Build everything that a stage trains, on ``device``; a function of the settings, ``seed`` and the weights.

    1. The global generator is seeded. The head, then the attention draw from it; later dropout does.
    2. The target gets the start's weights: those of the backbone, in stage two also those of the head.
    3. The source is a new network with the same backbone weights (or those of ``source_from``), and is frozen.
    4. The objective holds new attentive modules, sized by a forward pass at ``image_size``.
    5. The optimiser holds the backbone, the head, and the parameters of the objective.

    Args:
        fixed_weights: one tensor per layer, for a method whose row asks for them (``commands/fixed_weights.py``).
        class_images: number of training images of each class; needed for ``class_weights = balanced``.
        sync_bn: the target's batch-norm uses the images of all processes (GPUs only).
    """
    if stage.class_weights == "balanced" and len(class_images) != num_classes:
        raise ConfigError("class_weights: balanced needs class_images, the number of training images of each class")
    torch.manual_seed(seed)
    method = METHODS[stage.method]
    reads = required_inputs(method)
    memory_format = torch.channels_last if compute.channels_last else torch.contiguous_format
    network = build_network(backbone.name, num_classes)
    if start.with_head:
        load_state(network, start.state, start.origin)
    else:
        load_backbone(network, start.state, start.origin)
    if sync_bn:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    target = FeatureNetwork(
        network.to(device),
        aligned_layers(backbone),
        memory_format,
        with_features=bool(reads & {"old_head", "features"}),
    )
    if not method.trains_backbone:
        target.freeze_backbone()
    source_from = source_from or start
    inputs = TermInputs(
        shapes=target.map_shapes(image_size),
        alignment_scale=stage.alignment_scale,
        fixed_weights=fixed_weights,
        backbone=target.backbone_parameters(),
        old_head=read_old_head(network, source_from.state, source_from.origin) if "old_head" in reads else None,
        settings=stage.method_settings,
    )
    objective = Objective(
        method,
        inputs,
        head=target.head_parameters(),
        alpha=stage.alpha,
        gamma=stage.head_penalty,
        classification=stage.classification,
        class_weights=balanced_weights(class_images) if stage.class_weights == "balanced" else None,
    ).to(device)
    optimizer = build_optimizer(
        target, objective, learning_rate=stage.learning_rate, momentum=stage.momentum, weight_decay=stage.weight_decay
    )
    if compute.compile:
        target.compile_training()
    precision = Precision(compute.precision, device)
    return Learner(
        target=target,
        source=build_source(backbone, source_from, reads, device, memory_format) if reads - {"features"} else None,
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
) -> FrozenSource:
    """Build the frozen network with the start's weights; draws nothing from the global generator.

    It computes what ``reads`` asks for (see ``Term.reads``), and runs no further than needed.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(backbone.name, 1)
        if "old_head" in reads:
            network = build_network(backbone.name, len(read_old_head(network, start.state, start.origin)[1]))
            load_state(network, start.state, start.origin)
        else:
            load_backbone(network, start.state, start.origin)
    layers = aligned_layers(backbone) if "maps" in reads else ()
    return FrozenSource(network, layers, device, memory_format, with_logits="old_head" in reads)


def build_target(
    backbone: BackboneSettings, checkpoint: Checkpoint, path: Path, classes: Sequence[str], device: torch.device
) -> FeatureNetwork:
    """Build a trained network for evaluation: there is no source and no attention at inference (paper, section 3.1)."""
    check_fit(checkpoint, path, backbone.name, classes)
    network = build_network(backbone.name, len(classes))
    load_state(network, checkpoint.model, path)
    return FeatureNetwork(network.to(device), ())


def aligned_layers(backbone: BackboneSettings) -> tuple[str, ...]:
    """The layers of the config, those of the paper, or as many as the config wants.

    Raises:
        ConfigError: the network does not have that many.
    """
    if isinstance(backbone.aligned_layers, int) and not row_of(backbone.name).stages:
        return find_layers(backbone.name, backbone.aligned_layers)
    return layers_of(backbone.name, backbone.aligned_layers)


def aligned_shapes(backbone: BackboneSettings, image_size: int) -> list[MapShape]:
    """Shapes of the maps of the aligned layers; draws nothing from the global generator."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(backbone.name, 1)
    return FeatureNetwork(network, aligned_layers(backbone)).map_shapes(image_size)


def attention_state(checkpoint: Checkpoint, kind: type[AttentiveTerm]) -> dict[str, Tensor]:
    """State of a trained stage's attentive modules of one kind; empty if it has none."""
    prefix = f"alignments.{kind.name}."
    return {name.removeprefix(prefix): v for name, v in checkpoint.attention.items() if name.startswith(prefix)}


def build_attention(
    kind: type[AttentiveTerm], state: Mapping[str, Tensor], shapes: Sequence[MapShape], path: Path, image_size: int
) -> AttentiveTerm:
    """Build trained attentive modules over maps of ``shapes``, from ``attention_state``.

    Raises:
        CheckpointError: they are damaged, or belong to maps of other shapes.
    """
    term = kind(TermInputs(shapes=shapes))
    try:
        term.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its attention does not fit image_size = {image_size}: {one_line(error)}"
        ) from None
    return term


def backbone_name(checkpoint: Checkpoint, path: Path, base_model_name: str) -> str:
    """The network of a checkpoint; for a released checkpoint, which does not contain it, ``base_model_name``.

    Raises:
        ConfigError: the checkpoint does not contain it, and ``base_model_name`` is empty.
    """
    if not (checkpoint.backbone or base_model_name):
        raise ConfigError(
            f"{path}: a released checkpoint does not contain the name of its network; add base_model_name=<name>, "
            f"one of {', '.join(BACKBONES)}"
        )
    return checkpoint.backbone or base_model_name


def head_width(checkpoint: Checkpoint, path: Path, name: str) -> int:
    """Number of outputs of a checkpoint's head.

    Raises:
        CheckpointError: it does not hold the head of the network ``name``.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        bias = head_keys(build_network(name, 1))[-1]
    if bias not in checkpoint.model:
        first = next(iter(checkpoint.model))
        raise CheckpointError(f"{path}: not a {name}: its head {bias} is missing (the first key is {first})")
    head = checkpoint.model[bias]
    if head.dim() != 1 or len(head) == 0:
        raise CheckpointError(
            f"{path}: its head {bias} has the shape {tuple(head.shape)}; expected one number per class"
        )
    return len(head)


def check_fit(checkpoint: Checkpoint, path: Path, name: str, classes: Sequence[str]) -> None:
    """Raise CheckpointError if the network of a checkpoint is not ``name``, or its classes differ."""
    if checkpoint.backbone and checkpoint.backbone != name:
        raise CheckpointError(f"{path}: contains a {checkpoint.backbone}; base_model_name is {name}")
    outputs = head_width(checkpoint, path, name)
    if outputs != len(classes):
        raise CheckpointError(f"{path}: its head has {outputs} classes; the data set has {len(classes)}")
    different = [pair for pair in zip(checkpoint.classes, classes, strict=False) if pair[0] != pair[1]]
    if different:
        raise CheckpointError(
            f"{path}: trained on other classes: '{different[0][0]}' where the data set has '{different[0][1]}'"
        )


def trains_on_one_image(target: FeatureNetwork, image_size: int) -> bool:
    """Whether a training step accepts a batch of one image; batch-norm needs more than one value per channel."""
    network = copy.deepcopy(target.train().extractor).to("meta")
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, image_size, image_size, device="meta"))
    except ValueError:  # raised by torch.nn.functional.batch_norm
        return False
    return True


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """Number of values in all parameters."""
    return sum(parameter.numel() for parameter in parameters)
