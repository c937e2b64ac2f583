"""Maps that a network need not keep: the same values and gradients, with less memory.

torch's ReLU6 keeps its input for the backward pass, a copy of a whole map when it works in place; its output is kept
by the next convolution anyway, and says as well as the input where the gradient passes.

torch.fx reads ``out += identity`` as ``out = out + identity``: a third map for each residual block.
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


def sum_in_place(module: nn.Module, graph: fx.Graph) -> None:
    """Write the sums in ``graph`` over a summand that nothing else reads: a convolution's or a batch-norm's output.

    Neither of the two needs its output for the backward pass. Compile the graph's module again afterwards.
    """
    for node in graph.nodes:
        if node.op == "call_function" and node.target is operator.add:
            for summand, other in (node.args, node.args[::-1]):
                if _is_free(module, summand):
                    node.target, node.args = operator.iadd, (summand, other)
                    break


def _is_free(module: nn.Module, summand: Any) -> bool:
    if not isinstance(summand, fx.Node) or summand.op != "call_module" or len(summand.users) > 1:
        return False
    return isinstance(module.get_submodule(str(summand.target)), nn.Conv2d | nn.BatchNorm2d)
