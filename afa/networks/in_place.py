"""Operations written in place: the same values and gradients as torch's, with fewer maps in memory.

torch's ReLU6 keeps its input for the backward pass, a copy of the entire map if it works in place. Its output is
kept by the next convolution in any case, and determines as well as the input where the gradient passes.

torch.fx traces ``out += identity`` as ``out = out + identity``: one more map for each residual block.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
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


class InPlaceReLU6(nn.ReLU6):
    """Replaces an in-place ``nn.ReLU6``. Neither has weights, so state-dict keys do not change."""

    def forward(self, x: Tensor) -> Tensor:
        return _ClampInPlace.apply(x) if self.inplace and self.training else super().forward(x)


def replace_relu6(network: nn.Module) -> nn.Module:
    """``network`` itself, with its in-place ``nn.ReLU6`` modules replaced."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.ReLU6 and module.inplace:
            network.set_submodule(name, InPlaceReLU6(inplace=True).train(module.training))
    return network


def sum_in_place(module: nn.Module, graph: fx.Graph) -> None:
    """Write each sum in ``graph`` over a summand that nothing else reads, if a convolution or batch-norm made it.

    Neither of the two needs its output for the backward pass. The caller recompiles the graph's module.
    """
    for node in graph.nodes:
        if node.op != "call_function" or node.target is not operator.add:
            continue
        for summand, other in (node.args, node.args[::-1]):
            if not isinstance(summand, fx.Node) or summand.op != "call_module" or len(summand.users) > 1:
                continue
            if isinstance(module.get_submodule(str(summand.target)), nn.Conv2d | nn.BatchNorm2d):
                node.target, node.args = operator.iadd, (summand, other)
                break
