"""Terms that compare the maps of the aligned layers (eq. 3, 5 to 8; DELTA): one loss per layer."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from afa.method.alignment import (
    channel_alignment,
    delta_alignment,
    feature_map_alignment,
    relative_channel_alignment,
    relative_delta_alignment,
    relative_feature_map_alignment,
    relative_spatial_alignment,
    spatial_alignment,
)
from afa.method.attention import ChannelAttention, SpatialAttention, entropy
from afa.method.term import Outputs, Term, TermInputs, TermLoss

LayerLoss = Callable[..., Tensor]
"""Source map and target map, both (B, C, H, W), and for most terms weights (B, N) -> the loss of one layer."""

SPATIAL: Mapping[str, LayerLoss] = {"released": spatial_alignment, "relative": relative_spatial_alignment}
CHANNEL: Mapping[str, LayerLoss] = {"released": channel_alignment, "relative": relative_channel_alignment}


class MapTerm(Term):
    """The losses of the layers: their sum; if ``alignment_scale`` is relative, their mean.

    Attributes:
        losses: ``alignment_scale`` -> the loss of one layer. The relative ones are means over the batch.
    """

    losses: ClassVar[Mapping[str, LayerLoss]]

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        self.layer_loss = self.losses[inputs.alignment_scale]
        self._is_mean = inputs.alignment_scale == "relative"
        self.summed = self.summed and not self._is_mean

    def combine(self, losses: list[Tensor]) -> Tensor:
        """The term's loss from those of the layers."""
        total = torch.stack(losses).sum()
        return total / len(losses) if self._is_mean else total


class AttentiveTerm(MapTerm):
    """Weights from one attentive module per layer, which reads the source's map, not standardised in either scale."""

    attentions: nn.ModuleList

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The loss, and the entropy of each layer's attention."""
        losses, entropies = [], []
        for attend, source_map, target_map in zip(self.attentions, source.maps, target.maps, strict=True):
            attention = attend(source_map)
            losses.append(self.layer_loss(source_map, target_map, attention))
            entropies.append(entropy(attention.detach()))
        return TermLoss(self.combine(losses), entropies)

    @property
    def attention_names(self) -> list[str]:
        return [f"{self.name}_{layer}" for layer, _ in enumerate(self.attentions, start=1)]


class Spatial(AttentiveTerm):
    """AST: eq. 5, 6."""

    name = "spatial"
    losses = SPATIAL

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        self.attentions = nn.ModuleList(SpatialAttention(shape.height, shape.width) for shape in inputs.shapes)


class Channel(AttentiveTerm):
    """ACT: eq. 7, 8."""

    name = "channel"
    losses = CHANNEL

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        self.attentions = nn.ModuleList(ChannelAttention(*shape) for shape in inputs.shapes)


class FeatureMap(MapTerm):
    """DFA: eq. 3, no attention."""

    name = "feature_map"
    losses: ClassVar = {"released": feature_map_alignment, "relative": relative_feature_map_alignment}
    summed = True

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        losses = [self.layer_loss(s, t) for s, t in zip(source.maps, target.maps, strict=True)]
        return TermLoss(self.combine(losses))


class FixedTerm(MapTerm):
    """Fixed weights: one (N,) tensor per layer, which sums to 1 and is the same for every image."""

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        for layer, weights in enumerate(inputs.fixed_weights):
            self.register_buffer(f"weights_{layer}", weights)

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        layers = zip(source.maps, target.maps, self.buffers(), strict=True)
        losses = [self.layer_loss(s, t, weights.expand(len(s), -1)) for s, t, weights in layers]
        return TermLoss(self.combine(losses))


class Delta(FixedTerm):
    """DELTA: a channel's weight follows from the increase of the loss when its filter is zeroed."""

    name = "delta"
    losses: ClassVar = {"released": delta_alignment, "relative": relative_delta_alignment}
    summed = True


class FixedSpatial(FixedTerm):
    """Eq. 6 with N = H*W fixed weights instead of eq. 5: the mean attention of a trained AST (Table 9)."""

    name = "fixed_spatial"
    losses = SPATIAL


class FixedChannel(FixedTerm):
    """Eq. 8 with N = C fixed weights instead of eq. 7: the channel weights of DELTA (Table 9)."""

    name = "fixed_channel"
    losses = CHANNEL
