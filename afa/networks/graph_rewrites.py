"""Rewrites networks so that they use less memory and time: folds batch-norms, computes in place.

torch's ReLU6 keeps its input for the backward pass, a copy of the entire map if it works in place. Its output is
kept by the next convolution in any case, and the gradient can be computed from the output just as well.

torch.fx traces ``out += identity`` as ``out = out + identity``, which needs one more map for each residual block.

``fold_batch_norms`` is ``torch.fx.experimental.optimization.fuse``, but it folds the weights in float64, and it also
finds convolutions inside an ``nn.Sequential``.
"""

import copy
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils.fusion import fuse_conv_bn_weights

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""The second is not a subclass of the first."""


def graph_module(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The module that computes ``graph`` over the submodules of ``root``, freed as soon as it is no longer used.

    torch.fx lets a graph refer to its module, for hooks that are not used here. In this cycle, the tensors of a module
    that is no longer used would stay in memory until Python's garbage collector runs.
    """
    module = fx.GraphModule(root, graph)
    graph.owning_module = None
    return module


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
            if isinstance(module.get_submodule(str(summand.target)), (nn.Conv2d, *BATCH_NORMS)):
                node.target, node.args = operator.iadd, (summand, other)
                break


class SequentialTracer(fx.Tracer):
    """Traces into ``nn.Sequential``: torchvision's Conv2dNormActivation is one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


def fold_batch_norms(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The module that computes ``graph`` over the submodules of ``root`` in eval mode, with fewer batch-norms.

    A batch-norm is kept if its convolution's output has another use: after an aligned
    layer, whose raw output is compared. The weights of ``root`` do not change: folded layers are copies.
    """
    extractor = graph_module(root, copy.deepcopy(graph)).eval()
    module = graph_module(extractor, SequentialTracer().trace(extractor))
    nodes = [node for node in module.graph.nodes if node.op == "call_module"]
    modules = {node: module.get_submodule(str(node.target)) for node in nodes}
    calls = Counter(node.target for node in nodes)
    for node, norm in modules.items():
        if not isinstance(norm, BATCH_NORMS):
            continue
        before: Any = node.args[0]
        convolution = modules.get(before)
        used_again = len(before.users) > 1 or calls[before.target] > 1 or calls[node.target] > 1
        if not isinstance(convolution, nn.Conv2d) or used_again:
            continue
        # A copy in float64, so that each weight is rounded once.
        folded, norm = copy.deepcopy(convolution).double(), copy.deepcopy(norm).double()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        folded.weight, folded.bias = fuse_conv_bn_weights(
            folded.weight, folded.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        modules[before] = folded.to(convolution.weight.dtype)
        module.set_submodule(before.target, modules[before])
        node.replace_all_uses_with(before)
        module.graph.erase_node(node)
    sum_in_place(module, module.graph)
    module.delete_all_unused_submodules()
    module.recompile()
    return module
