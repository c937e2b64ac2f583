"""Terms that compare the maps of the aligned layers (eq. 3, 5 to 8; DELTA): the sum of one loss per layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from afa.method.alignment import channel_alignment, delta_alignment, feature_map_alignment, spatial_alignment
from afa.method.attention import ChannelAttention, SpatialAttention, entropy
from afa.method.term import Outputs, Term, TermInputs, TermLoss

LayerLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Source map and target map, both (B, C, H, W), and weights (B, N) -> the loss of one layer."""


class AttentiveTerm(Term):
    """Weights from one attentive module per layer, which reads the source's map."""

    loss: LayerLoss
    attentions: nn.ModuleList

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The loss, summed over the layers, and the entropy of each layer's attention."""
        losses, entropies = [], []
        for attend, source_map, target_map in zip(self.attentions, source.maps, target.maps, strict=True):
            attention = attend(source_map)
            losses.append(self.loss(source_map, target_map, attention))
            entropies.append(entropy(attention.detach()))
        return TermLoss(torch.stack(losses).sum(), entropies)

    @property
    def attention_names(self) -> list[str]:
        return [f"{self.name}_{layer}" for layer, _ in enumerate(self.attentions, start=1)]


class Spatial(AttentiveTerm):
    """AST: eq. 5, 6."""

    name = "spatial"
    loss = staticmethod(spatial_alignment)

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        self.attentions = nn.ModuleList(SpatialAttention(shape.height, shape.width) for shape in inputs.shapes)


class Channel(AttentiveTerm):
    """ACT: eq. 7, 8."""

    name = "channel"
    loss = staticmethod(channel_alignment)

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        self.attentions = nn.ModuleList(ChannelAttention(*shape) for shape in inputs.shapes)


class FeatureMap(Term):
    """DFA: eq. 3, no attention."""

    name = "feature_map"
    summed = True

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The loss, summed over the layers."""
        losses = [feature_map_alignment(s, t) for s, t in zip(source.maps, target.maps, strict=True)]
        return TermLoss(torch.stack(losses).sum())


class FixedTerm(Term):
    """Weights that are not trained: one (N,) tensor per layer, which sums to 1, the same for every image."""

    loss: LayerLoss

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        for layer, weights in enumerate(inputs.fixed_weights):
            self.register_buffer(f"weights_{layer}", weights)

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The loss, summed over the layers."""
        layers = zip(source.maps, target.maps, self.buffers(), strict=True)
        losses = [self.loss(s, t, weights.expand(len(s), -1)) for s, t, weights in layers]
        return TermLoss(torch.stack(losses).sum())


class Delta(FixedTerm):
    """DELTA: channel weights by how much the loss grows when a filter is zeroed."""

    name = "delta"
    loss = staticmethod(delta_alignment)
    summed = True


class FixedSpatial(FixedTerm):
    """Eq. 6 with N = H*W fixed weights instead of eq. 5: the mean attention of a trained AST (Table 9)."""

    name = "fixed_spatial"
    loss = staticmethod(spatial_alignment)


class FixedChannel(FixedTerm):
    """Eq. 8 with N = C fixed weights instead of eq. 7: DELTA's (Table 9)."""

    name = "fixed_channel"
    loss = staticmethod(channel_alignment)
