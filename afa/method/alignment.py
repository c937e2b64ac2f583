"""Alignment losses: pure functions of one layer's maps (eq. 3, 6, 8; DELTA).

``source`` and ``target`` are (B, C, H, W); the result is a scalar; d = target - source.
The paper's equations omit the factors HW, C, 1/2 and 1/B. The published values of alpha
assume them, so the form here is that of the authors' release.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _SquaredDistance(Function):
    """Sum of d^2 over ``dims`` of (B, C, H, W), differentiable by the target alone: the source is frozen.

    A custom function, because autograd would keep d and d^2 and allocate two more maps in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor, dims: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(source, target)
        return (target - source).square_().sum(dims, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        source, target = ctx.saved_tensors
        return None, (target - source).mul_(2 * gradient), None


def feature_map_alignment(source: Tensor, target: Tensor) -> Tensor:
    """1/2 ||d||^2, summed over the batch (eq. 3: DFA)."""
    return _SquaredDistance.apply(source, target, (0, 1, 2, 3)).sum() / 2


def spatial_alignment(source: Tensor, target: Tensor, attention: Tensor) -> Tensor:
    """1/(2B) sum_bj (HW A_bj)^2 sum_c d_bcj^2 (eq. 6), where ``attention`` A is (B, H*W).

    The weight is inside the norm, so it is squared.
    """
    batch, positions = attention.shape
    distance = _SquaredDistance.apply(source, target, (1,)).flatten(1)  # (B, H*W)
    return ((positions * attention).square() * distance).sum() / (2 * batch)


def channel_alignment(source: Tensor, target: Tensor, attention: Tensor) -> Tensor:
    """C/(2B) sum_bc a_bc ||d_bc||^2 (eq. 8), where ``attention`` a is (B, C).

    The loss is linear in the weights, so the attention can lower it by moving all its mass to
    the channel with the smallest difference. Its entropy is logged for that reason.
    """
    batch, channels = attention.shape
    distance = _SquaredDistance.apply(source, target, (2, 3)).flatten(1)  # (B, C)
    return channels * (attention * distance).sum() / (2 * batch)


def delta_alignment(source: Tensor, target: Tensor, channel_weights: Tensor) -> Tensor:
    """C/(2HW) sum_bc w_c ||d_bc||^2, summed over the batch (DELTA, Li et al., ICLR 2019).

    ``channel_weights`` w is fixed and sums to 1: (C,), or (B, C) with the same weights for every image.
    """
    channels, height, width = source.shape[1:]
    distance = _SquaredDistance.apply(source, target, (2, 3)).flatten(1)  # (B, C)
    return channels * (channel_weights * distance).sum() / (2 * height * width)


def delta_channel_weights(loss_increase: Tensor) -> Tensor:
    """softmax(zscore(increase) / 5) over the (C,) increases of the loss, each with one filter zeroed (DELTA).

    The standard deviation is the population's; if it is 0, all filters get the same weight.
    """
    difference, deviation = loss_increase - loss_increase.mean(), loss_increase.std(correction=0)
    zscore = difference / deviation if deviation > 0 else torch.zeros_like(difference)
    return (zscore / 5).softmax(dim=0)
