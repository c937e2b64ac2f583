"""The objective of a stage (eq. 4): classification + alpha * alignment + gamma * head penalty.

``ALIGNMENTS`` gives each word of a row of ``catalogue.METHODS`` its meaning.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afa.method.alignment import (
    channel_alignment,
    delta_alignment,
    feature_map_alignment,
    spatial_alignment,
)
from afa.method.attention import ChannelAttention, SpatialAttention, entropy
from afa.method.catalogue import Method
from afa.method.classification import CLASSIFICATION_LOSSES
from afa.method.penalties import head_penalty, l2_sp


class MapShape(NamedTuple):
    """Shape of an aligned layer's map for one image."""

    channels: int
    height: int
    width: int


class Losses(NamedTuple):
    """One step's losses, scalars; ``total`` alone has alpha and gamma in it.

    ``entropies`` is (A,), one entry for each attentive module, see ``Objective.attention_names``.
    """

    classification: Tensor
    head_penalty: Tensor
    alignment: Tensor
    total: Tensor
    entropies: Tensor


class AttentiveAlignment(nn.Module):
    """One attentive module and one loss a layer, added up: AST (eq. 5, 6) and ACT (eq. 7, 8)."""

    def __init__(self, attentions: Iterable[nn.Module], loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(attentions)
        self._loss = loss

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps of the aligned layers, each (B, C, H, W) -> the loss and each attention's entropy."""
        weights = [attend(map_) for attend, map_ in zip(self.attentions, source, strict=True)]
        terms = [self._loss(s, t, a) for s, t, a in zip(source, target, weights, strict=True)]
        return torch.stack(terms).sum(), [entropy(a.detach()) for a in weights]


class FeatureMapAlignment(nn.Module):
    """DFA: eq. 3, no attention."""

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As ``AttentiveAlignment.forward``, without entropies."""
        terms = [feature_map_alignment(s, t) for s, t in zip(source, target, strict=True)]
        return torch.stack(terms).sum(), []


class DeltaAlignment(nn.Module):
    """DELTA: fixed weights, one (C,) tensor a layer."""

    def __init__(self, channel_weights: Sequence[Tensor]) -> None:
        super().__init__()
        for layer, weights in enumerate(channel_weights):
            self.register_buffer(f"channel_weights_{layer}", weights)

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As ``AttentiveAlignment.forward``, without entropies."""
        terms = [delta_alignment(s, t, w) for s, t, w in zip(source, target, self.buffers(), strict=True)]
        return torch.stack(terms).sum(), []


ALIGNMENTS: dict[str, Callable[[Sequence[MapShape], Sequence[Tensor]], nn.Module]] = {
    "spatial": lambda shapes, _: AttentiveAlignment(
        (SpatialAttention(shape.height, shape.width) for shape in shapes), spatial_alignment
    ),
    "channel": lambda shapes, _: AttentiveAlignment((ChannelAttention(*shape) for shape in shapes), channel_alignment),
    "feature_map": lambda *_: FeatureMapAlignment(),
    "delta": lambda _, channel_weights: DeltaAlignment(channel_weights),
}
"""Word in a method's row -> the alignment over maps of given shapes; ``channel_weights`` are DELTA's."""


class Objective(nn.Module):
    """A method's losses. Its parameters and state are those of the attentive modules alone.

    Args:
        method: the row of METHODS.
        shapes: of the aligned layers' maps.
        head, backbone: the target's parameters, on their device and at their start values.
        alpha, gamma: weights of the alignment (or L2-SP) and of the head penalty.
        classification: a key of CLASSIFICATION_LOSSES.
        channel_weights: DELTA's, one (C,) tensor a layer.
    """

    def __init__(
        self,
        method: Method,
        shapes: Sequence[MapShape],
        *,
        head: Sequence[Tensor],
        backbone: Sequence[Tensor],
        alpha: float,
        gamma: float,
        classification: str = "cross_entropy",
        channel_weights: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self.alignments = nn.ModuleDict({kind: ALIGNMENTS[kind](shapes, channel_weights) for kind in method.alignments})
        self.alpha = alpha
        self.gamma = gamma if method.head_penalty else 0.0
        self.classification = CLASSIFICATION_LOSSES[classification]
        # Tuples, so that nn.Module does not take the target's parameters for its own.
        self._head = tuple(head)
        self._backbone = tuple(backbone) if method.l2_sp else ()
        self._start = tuple(parameter.detach().clone() for parameter in self._backbone)

    @property
    def attention_names(self) -> list[str]:
        """``spatial_1`` .. or ``channel_1`` .., in the order of ``Losses.entropies``, shallow to deep."""
        return [
            f"{kind}_{layer}"
            for kind, alignment in self.alignments.items()
            if isinstance(alignment, AttentiveAlignment)
            for layer, _ in enumerate(alignment.attentions, start=1)
        ]

    def forward(self, logits: Tensor, labels: Tensor, source: Sequence[Tensor], target: Sequence[Tensor]) -> Losses:
        """(B, K) logits, (B,) labels and both networks' aligned maps -> the losses."""
        classification = self.classification(logits, labels)
        penalty = head_penalty(self._head)
        alignment, entropies = logits.new_zeros(()), []
        for module in self.alignments.values():
            term, term_entropies = module(source, target)
            alignment = alignment + term
            entropies += term_entropies
        if self._start:
            alignment = alignment + l2_sp(self._backbone, self._start)
        return Losses(
            classification=classification,
            head_penalty=penalty,
            alignment=alignment,
            total=classification + self.alpha * alignment + self.gamma * penalty,
            entropies=torch.stack(entropies) if entropies else logits.new_zeros(0),
        )
