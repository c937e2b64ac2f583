"""Penalties: on the weights of the new head, L2-SP on those of the backbone, and BSS on the features."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from afa.method.catalogue import BSSSettings
from afa.method.term import Outputs, Term, TermInputs, TermLoss


def head_penalty(head: Iterable[Tensor]) -> Tensor:
    """1/2 sum ||w||^2 over the head's weight and bias (the second term of eq. 4)."""
    return torch.stack([parameter.square().sum() for parameter in head]).sum() / 2


def l2_sp(parameters: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor:
    """1/2 sum ||w - w_source||^2 over all parameters but the head's (Li, Grandvalet, Davoine, ICML 2018)."""
    distances = [(now - then).square().sum() for now, then in zip(parameters, start, strict=True)]
    return torch.stack(distances).sum() / 2


def spectral_shrinkage(features: Tensor, count: int) -> Tensor:
    """Sum of the squares of the ``count`` smallest singular values of the (B, F) features.

    Chen et al., Catastrophic forgetting meets negative transfer: batch spectral shrinkage, NeurIPS 2019. At most
    min(B, F) values exist. They depend on all images of the batch: the loss is neither a sum nor a mean over it.
    """
    return torch.linalg.svdvals(features)[-count:].square().sum()


class StartingPoint(Term):
    """L2-SP: distance of the backbone's weights from their initial values."""

    name = "l2_sp"
    reads = frozenset()

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        # Tuples, so that nn.Module does not register the target's parameters.
        self._backbone = tuple(inputs.backbone)
        self._start = tuple(parameter.detach().clone() for parameter in self._backbone)

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The loss depends only on the weights."""
        return TermLoss(l2_sp(self._backbone, self._start))


class SpectralShrinkage(Term):
    """BSS: the smallest singular values of the features; ``alpha`` is the paper's eta."""

    name = "bss"
    reads = frozenset({"features"})

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        self.count = (inputs.settings or BSSSettings()).singular_values

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The loss depends only on the features of the target."""
        assert target.features is not None
        return TermLoss(spectral_shrinkage(target.features, self.count))
