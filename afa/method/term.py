"""The interface of a method's terms: the arguments of their constructors, their inputs and outputs."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn


class MapShape(NamedTuple):
    """Shape of an aligned layer's map for one image."""

    channels: int
    height: int
    width: int


class Outputs(NamedTuple):
    """Outputs of one network for a batch.

    Attributes:
        maps: maps of the aligned layers, shallow to deep, each (B, C, H, W).
        features: (B, F), the input of the network's head.
        logits: (B, K); the logits of the source come from its own classifier.
    """

    maps: tuple[Tensor, ...] = ()
    features: Tensor | None = None
    logits: Tensor | None = None


class TermLoss(NamedTuple):
    """A term's scalar loss, and the scalar entropy of each of its attentive modules, shallow to deep."""

    loss: Tensor
    entropies: Sequence[Tensor] = ()


class TermInputs(NamedTuple):
    """Arguments of a term's constructor, at the start of a stage.

    Attributes:
        shapes: shapes of the aligned layers' maps.
        alignment_scale: ``released``, or ``relative``: the terms compare standardised maps.
        fixed_weights: one tensor per layer, if the method's row asks for them.
        backbone: the target's parameters without the head's, on their device.
        old_head: weight (K, F) and bias (K,) of the source's own classifier, if a term reads it.
        settings: an instance of the method's ``settings`` class, None for its defaults.
    """

    shapes: Sequence[MapShape] = ()
    alignment_scale: str = "released"
    fixed_weights: Sequence[Tensor] = ()
    backbone: Sequence[Tensor] = ()
    old_head: tuple[Tensor, Tensor] | None = None
    settings: Any = None


class Term(nn.Module):
    """One term of an objective. Its parameters are trained with the target's; its state is in the checkpoints.

    Attributes:
        name: the key of its state in checkpoints and of its entropies in the log.
        reads: the outputs that the term needs from the two networks: ``maps``, the aligned maps of both;
            ``old_head``, the source's logits and the target's features; ``features``, the target's features. A term
            that only reads weights needs none of them.
        summed: True if the loss is a sum over the images of a batch, False if it is their mean.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = frozenset({"maps"})
    summed: bool = False

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__()

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """Compute the term's loss on a batch from the outputs of both networks."""
        raise NotImplementedError

    @property
    def attention_names(self) -> list[str]:
        """``<name>_1``, ``<name>_2``, ...: one for each entropy."""
        return []

    def set_progress(self, done: float) -> None:
        """Called before each epoch with the fraction of finished epochs, in [0, 1)."""
