"""Fold the batch-norms of a network in eval mode into the convolutions before them: one pass over each map less.

As ``torch.fx.experimental.optimization.fuse``, but the weights are folded in float64, and
convolutions inside an ``nn.Sequential`` are found too.
"""

import copy
from collections import Counter
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from afa.networks.in_place import sum_in_place


class SequentialTracer(fx.Tracer):
    """Traces into ``nn.Sequential``: torchvision's Conv2dNormActivation is one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


def fold_batch_norms(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The module that computes ``graph`` over the submodules of ``root`` in eval mode, with fewer batch-norms.

    A batch-norm is kept if its convolution's output has another use: after an aligned
    layer, whose raw output is compared. The weights of ``root`` do not change: folded layers are copies.
    """
    extractor = fx.GraphModule(root, copy.deepcopy(graph)).eval()
    module = fx.GraphModule(extractor, SequentialTracer().trace(extractor))
    nodes = [node for node in module.graph.nodes if node.op == "call_module"]
    modules = {node: module.get_submodule(str(node.target)) for node in nodes}
    calls = Counter(node.target for node in nodes)
    for node, norm in modules.items():
        if not isinstance(norm, nn.BatchNorm2d):
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
