"""Alignment losses: pure functions of one layer's maps (eq. 3, 6, 8; DELTA), and their relative forms.

``source`` and ``target`` are (B, C, H, W); the result is a scalar; d = target - source. The paper's equations omit the
factors HW, C, 1/2 and 1/B. The published values of alpha assume them, so the functions here include them, as the
authors' release does.

The relative forms are not in the paper. They compare standardised maps and are divided by the number of
values, so that each of them is 1/(2BCHW) sum d^2 if the weights are uniform.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _SquaredDistance(Function):
    """Sum of d^2 over ``dims`` of (B, C, H, W), differentiable with respect to the target only: the source is frozen.

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


FLOOR = 1e-3
"""Added to the variance of a channel, times the mean over all channels: the noise of a dead channel stays small."""


class _Standardise(Function):
    """``standardise``. A custom function, because autograd would keep two more maps."""

    @staticmethod
    def forward(ctx: Any, map_: Tensor) -> Tensor:
        centred = map_ - map_.mean((0, 2, 3), keepdim=True)
        variance = centred.square().mean((0, 2, 3), keepdim=True)  # many times faster than torch.var on a CPU
        deviation = (variance + FLOOR * variance.mean()).sqrt()  # (1, C, 1, 1)
        scale = torch.where(deviation > 0, 1 / deviation, 0)
        standardised = centred.mul_(scale)
        ctx.save_for_backward(standardised, deviation, scale)
        return standardised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        standardised, deviation, scale = ctx.saved_tensors
        product = (gradient * standardised).mean((0, 2, 3), keepdim=True) * scale
        product += FLOOR * deviation * (product * scale).mean()  # the floor depends on the variance of every channel
        centred = gradient - gradient.mean((0, 2, 3), keepdim=True)
        return centred.mul_(scale).addcmul_(standardised, product, value=-1)


def standardise(map_: Tensor) -> Tensor:
    """(x - mean_c) / sqrt(var_c + FLOOR * mean of var over the channels), in float32 or float64.

    Mean and variance of each channel are over the batch and the positions, as in the batch-norm that
    follows an aligned layer. They are functions of the map, also for the gradient. The result does not depend on
    the scale of the map. A map whose channels are all constant becomes 0 and gets no gradient.
    """
    return _Standardise.apply(map_.to(torch.promote_types(map_.dtype, torch.float32)))


def relative_feature_map_alignment(source: Tensor, target: Tensor) -> Tensor:
    """Eq. 3 of the standardised maps, divided by BCHW."""
    return feature_map_alignment(standardise(source), standardise(target)) / source.numel()


def relative_spatial_alignment(source: Tensor, target: Tensor, attention: Tensor) -> Tensor:
    """Eq. 6 of the standardised maps, divided by CHW: 1/(2BCHW) sum_bj (HW A_bj)^2 sum_c d_bcj^2."""
    return spatial_alignment(standardise(source), standardise(target), attention) / source[0].numel()


def relative_channel_alignment(source: Tensor, target: Tensor, attention: Tensor) -> Tensor:
    """Eq. 8 of the standardised maps, divided by CHW: 1/(2BHW) sum_bc a_bc ||d_bc||^2."""
    return channel_alignment(standardise(source), standardise(target), attention) / source[0].numel()


def relative_delta_alignment(source: Tensor, target: Tensor, channel_weights: Tensor) -> Tensor:
    """The loss of DELTA of the standardised maps, divided by BC: 1/(2BHW) sum_bc w_c ||d_bc||^2."""
    return delta_alignment(standardise(source), standardise(target), channel_weights) / source[:, :, 0, 0].numel()


def delta_channel_weights(loss_increase: Tensor) -> Tensor:
    """softmax(zscore(increase) / 5) over the (C,) increases of the loss, each with one filter zeroed (DELTA).

    The standard deviation is that of the population (no correction); if it is 0, all filters get the same weight.
    """
    difference, deviation = loss_increase - loss_increase.mean(), loss_increase.std(correction=0)
    zscore = difference / deviation if deviation > 0 else torch.zeros_like(difference)
    return (zscore / 5).softmax(dim=0)
