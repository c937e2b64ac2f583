"""ReLU6 that keeps its output for the backward pass: the same values and gradients, with less memory.

torch's own keeps its input, a copy of a whole map when it works in place; the output is kept by the next
convolution anyway, and says as well as the input where the gradient passes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _ClampInPlace(Function):
    """Clamp to 0..6."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clamp_(0, 6))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, output, 0, 6)


class LeanReLU6(nn.ReLU6):
    """Stands in for an in-place ``nn.ReLU6``, which has no weights: state-dict keys stay as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return _ClampInPlace.apply(x) if self.inplace and self.training else super().forward(x)


def make_lean(network: nn.Module) -> nn.Module:
    """``network`` with its own in-place ReLU6 replaced."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.ReLU6 and module.inplace:
            network.set_submodule(name, LeanReLU6(inplace=True).train(module.training))
    return network
