"""Terms that compare the aligned layers' maps (eq. 3, 5 to 8; DELTA): one loss a layer, added up."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from afa.method.alignment import (
    channel_alignment,
    delta_alignment,
    feature_map_alignment,
    spatial_alignment,
)
from afa.method.attention import ChannelAttention, SpatialAttention, entropy
from afa.method.term import Given, Term


class AttentiveTerm(Term):
    """One attentive module a layer; it reads the source's map."""

    attentions: nn.ModuleList

    @staticmethod
    def loss(source: Tensor, target: Tensor, attention: Tensor) -> Tensor:
        """The loss of one layer."""
        raise NotImplementedError

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps of the aligned layers, each (B, C, H, W)."""
        weights = [attend(map_) for attend, map_ in zip(self.attentions, source, strict=True)]
        terms = [self.loss(s, t, a) for s, t, a in zip(source, target, weights, strict=True)]
        return torch.stack(terms).sum(), [entropy(a.detach()) for a in weights]

    @property
    def attention_names(self) -> list[str]:
        return [f"{self.name}_{layer}" for layer, _ in enumerate(self.attentions, start=1)]


class Spatial(AttentiveTerm):
    """AST: eq. 5, 6."""

    name = "spatial"
    loss = staticmethod(spatial_alignment)

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.attentions = nn.ModuleList(SpatialAttention(shape.height, shape.width) for shape in given.shapes)


class Channel(AttentiveTerm):
    """ACT: eq. 7, 8."""

    name = "channel"
    loss = staticmethod(channel_alignment)

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.attentions = nn.ModuleList(ChannelAttention(*shape) for shape in given.shapes)


class FeatureMap(Term):
    """DFA: eq. 3, no attention."""

    name = "feature_map"
    summed = True

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps of the aligned layers, each (B, C, H, W)."""
        return torch.stack([feature_map_alignment(s, t) for s, t in zip(source, target, strict=True)]).sum(), []


class FixedTerm(Term):
    """Weights that do not train, one tensor a layer, the same for every image."""

    @staticmethod
    def loss(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """The loss of one layer."""
        raise NotImplementedError

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        for layer, weights in enumerate(given.fixed_weights):
            self.register_buffer(f"weights_{layer}", weights)

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps of the aligned layers, each (B, C, H, W)."""
        terms = [self.loss(s, t, w) for s, t, w in zip(source, target, self.buffers(), strict=True)]
        return torch.stack(terms).sum(), []


class Delta(FixedTerm):
    """DELTA: (C,) weights by what the loss gains when a filter is switched off."""

    name = "delta"
    summed = True

    @staticmethod
    def loss(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """``weights`` w is (C,) and sums to 1."""
        return delta_alignment(source, target, weights)


class FixedSpatial(FixedTerm):
    """Eq. 6 with (H*W,) weights in place of eq. 5: the mean attention of a trained AST (Table 9)."""

    name = "fixed_spatial"

    @staticmethod
    def loss(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """``weights`` A is (H*W,) and sums to 1."""
        return spatial_alignment(source, target, weights.expand(len(source), -1))


class FixedChannel(FixedTerm):
    """Eq. 8 with (C,) weights in place of eq. 7: DELTA's (Table 9)."""

    name = "fixed_channel"

    @staticmethod
    def loss(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """``weights`` a is (C,) and sums to 1."""
        return channel_alignment(source, target, weights.expand(len(source), -1))
