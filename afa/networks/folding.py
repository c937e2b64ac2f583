"""Batch-norm of a network in eval mode folded into the convolution before it: one pass over each map less."""

import copy
from collections import Counter
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from afa.networks.lean import sum_in_place


def fold_batch_norms(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The module that computes ``graph`` over the submodules of ``root`` in eval mode, with fewer batch-norms.

    A batch-norm stays where its convolution's own output is used too: behind an aligned
    layer, whose raw output is compared. ``root`` keeps its weights; those that change are copies.
    """
    extractor = fx.GraphModule(root, copy.deepcopy(graph)).eval()
    module = fx.GraphModule(extractor, _IntoSequences().trace(extractor))
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for norm in [node for node in module.graph.nodes if _is_call_of(nn.BatchNorm2d, node, module)]:
        convolution = norm.args[0]
        alone = _is_call_of(nn.Conv2d, convolution, module) and len(convolution.users) == 1
        if alone and calls[norm.target] == calls[convolution.target] == 1:
            modules: list[Any] = [module.get_submodule(str(node.target)) for node in (convolution, norm)]
            module.set_submodule(str(convolution.target), _fold(*modules))
            norm.replace_all_uses_with(convolution)
            module.graph.erase_node(norm)
    sum_in_place(module, module.graph)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


class _IntoSequences(fx.Tracer):
    """Sees the convolution and the batch-norm in torchvision's Conv2dNormActivation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


def _is_call_of(kind: type[nn.Module], node: Any, module: fx.GraphModule) -> bool:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return is_call and isinstance(module.get_submodule(str(node.target)), kind)


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A copy of the convolution with the norm in its weights: in float64, so that each is rounded once."""
    dtype = convolution.weight.dtype
    convolution, norm = copy.deepcopy(convolution).double(), copy.deepcopy(norm).double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight, convolution.bias = weight, bias
    return convolution.to(dtype)
