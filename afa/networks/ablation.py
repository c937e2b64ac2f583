"""Increase of the loss when one channel of a layer is set to zero, for the weights of DELTA (Li et al., ICLR 2019).

Zeroing a filter's weights, and its bias if it has one, zeroes its channel of the
convolution's output and changes nothing before it. So the network is cut there: the
layers before the cut run once per batch, those after it for many channels at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from afa.networks.build import head_name
from afa.networks.features import layer_extractors
from afa.networks.graph_rewrites import fold_batch_norms, graph_module

VALUES_AT_ONCE = 2**25
"""Number of map values that the rest of the network processes at a time: 128 MiB of float32."""


class ChannelAblation:
    """A network in eval mode with folded batch-norms, cut after one of its layers.

    Args:
        network: images -> (B, K) logits.
        layer: name of a module whose output is a (B, C, H, W) map.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        head = head_name(network)
        extractor = layer_extractors(network.eval(), [layer], [head]).eval
        folded = fold_batch_norms(extractor, extractor.graph)
        folded.to(memory_format=torch.channels_last)
        output = next(node for node in folded.graph.nodes if node.op == "output")
        self._before, self._behind = _cut(folded, output.args[0][layer], output.args[0][head])

    @torch.inference_mode()
    def increases(self, images: Tensor, labels: Tensor, *, first: int = 0) -> Iterator[Tensor]:
        """Increase of the mean cross-entropy when a channel is zeroed, for the channels ``first``, ``first`` + 1, ...

        Args:
            images: (B, 3, S, S); labels: (B,).

        Yields:
            (n,) increases of the next n channels, as many as ``VALUES_AT_ONCE`` allows.
        """
        maps, *others = self._before(images.contiguous(memory_format=torch.channels_last))
        channels = maps.shape[1]
        values = sum(value.numel() for value in (maps, *others) if isinstance(value, Tensor))
        at_once = max(VALUES_AT_ONCE // values, 1)
        unchanged = self._losses(maps.clone(), others, labels)
        for start in range(first, channels, at_once):
            zeroed = range(start, min(start + at_once, channels))
            copies = torch.cat([maps] * len(zeroed))  # (n * B, C, H, W)
            for copy, channel in zip(copies.chunk(len(zeroed)), zeroed, strict=True):
                copy[:, channel] = 0
            yield self._losses(copies, others, labels) - unchanged

    def _losses(self, copies: Tensor, others: list, labels: Tensor) -> Tensor:
        """(n * B, C, H, W) maps -> the (n,) mean losses of the rest of the network on each B of them."""
        n = len(copies) // len(labels)
        # Repeated also for n = 1: an in-place operation would change the values for the next call.
        repeated = (v.repeat(n, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) else v for v in others)
        logits = self._behind(copies, *repeated)
        losses = F.cross_entropy(logits, labels.repeat(n), reduction="none")
        return losses.double().unflatten(0, (n, -1)).mean(dim=1)


def _cut(module: fx.GraphModule, cut: fx.Node, logits: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split a graph: ``cut`` and the nodes that do not depend on it; and the remaining nodes up to ``logits``.

    The first module returns a tuple of the values that the second takes: the cut's output, then all
    others that bypass it, such as the identity of a residual block.
    """
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    behind: set[fx.Node] = set()
    for node in nodes:
        if not behind.isdisjoint(node.all_input_nodes) or cut in node.all_input_nodes:
            behind.add(node)
    ahead = [node for node in nodes if node not in behind]
    crossing = [cut, *(node for node in ahead if node is not cut and any(user in behind for user in node.users))]
    first, second = fx.Graph(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in ahead:
        copied[node] = first.node_copy(node, copied.__getitem__)
    first.output(tuple(copied[node] for node in crossing))
    copied = {node: second.placeholder(node.name) for node in crossing}
    for node in (node for node in nodes if node in behind):
        copied[node] = second.node_copy(node, copied.__getitem__)
    second.output(copied[logits])
    return graph_module(module, first), graph_module(module, second)
