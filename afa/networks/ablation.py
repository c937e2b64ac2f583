"""What the loss gains when one channel of a layer is switched off, for DELTA's weights (SPEC section 5).

Zeroing a filter's weights, and its bias if it has one, zeroes its channel of the
convolution's output and changes nothing before it. So the network is cut there: what
lies before runs once a batch, what lies behind runs for many channels at a time.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from afa.errors import ConfigError

VALUES_AT_ONCE = 2**25
"""How many values of maps go through the rest of the network together, 128 MiB of them."""


class ChannelAblation:
    """A network in eval mode, cut behind one of its layers.

    Args:
        network: images -> (B, K) logits.
        layer: name of a module whose output is a (B, C, H, W) map.

    Raises:
        ConfigError: the network cannot be traced, or runs the layer more than once.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        network = copy.deepcopy(network).eval().to(memory_format=torch.channels_last)
        try:
            traced = fx.GraphModule(network, _Tracer(layer).trace(network))
        except Exception as error:  # whatever the network's own forward raises on a proxy
            raise ConfigError(f"{type(network).__name__} cannot be traced by torch.fx: {error}") from None
        cut = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == layer]
        if len(cut) != 1:
            raise ConfigError(f"aligned_layers: {layer} runs {len(cut)} times in a forward; once is right")
        _fold_batch_norms(traced, cut[0])
        self._before, self._behind = _cut(traced, cut[0])

    @torch.inference_mode()
    def increases(self, images: Tensor, labels: Tensor, *, first: int = 0) -> Iterator[Tensor]:
        """The mean cross-entropy with a channel zeroed minus that without, for channel ``first``, ``first`` + 1, ...

        Args:
            images: (B, 3, S, S); labels: (B,).

        Yields:
            (n,) increases of the next n channels, n as many as fit together.
        """
        maps, *others = self._before(images.contiguous(memory_format=torch.channels_last))
        channels = maps.shape[1]
        values = sum(value.numel() for value in (maps, *others) if isinstance(value, Tensor))
        at_once = max(VALUES_AT_ONCE // values, 1)
        whole = self._losses(maps.clone(), others, labels)
        for begin in range(first, channels, at_once):
            zeroed = range(begin, min(begin + at_once, channels))
            copies = torch.cat([maps] * len(zeroed))  # (n * B, C, H, W)
            for part, channel in zip(copies.chunk(len(zeroed)), zeroed, strict=True):
                part[:, channel] = 0
            yield self._losses(copies, others, labels) - whole

    def _losses(self, copies: Tensor, others: list, labels: Tensor) -> Tensor:
        """(n * B, C, H, W) maps -> the (n,) mean losses of the rest of the network on each B of them."""
        n = len(copies) // len(labels)
        # Copies also of a single one: an in-place operation would change it for the next.
        repeated = [
            value.repeat(n, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value for value in others
        ]
        logits = self._behind(copies, *repeated)
        losses = F.cross_entropy(logits, labels.repeat(n), reduction="none")
        return losses.double().unflatten(0, (n, -1)).mean(dim=1)


class _Tracer(fx.Tracer):
    """Takes ``layer`` for one operation, also where it is a block of several."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self._layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self._layer or super().is_leaf_module(m, module_qualified_name)


def _fold_batch_norms(traced: fx.GraphModule, cut: fx.Node) -> None:
    """Put each batch-norm's scale and shift into the convolution before it, but for ``cut``: its raw output counts."""
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" else None
        if before is None or before is cut or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, convolution = traced.get_submodule(node.target), traced.get_submodule(before.target)
        if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            parent, _, leaf = before.target.rpartition(".")
            setattr(traced.get_submodule(parent), leaf, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()


def _cut(traced: fx.GraphModule, cut: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The part of a graph that does not depend on ``cut``, with it, and the part that does.

    The first returns a tuple of the values that the second takes: the cut's, then all
    others that go past it, such as a residual block's identity.
    """
    behind: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if any(source is cut or source in behind for source in node.all_input_nodes):
            behind.add(node)
    crossing = [
        node
        for node in traced.graph.nodes
        if node is not cut and node not in behind and any(user in behind for user in node.users)
    ]
    before_graph, behind_graph = fx.Graph(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node not in behind:
            copied[node] = before_graph.node_copy(node, copied.__getitem__)
    before_graph.output(tuple(copied[node] for node in (cut, *crossing)))
    placed = {node: behind_graph.placeholder(node.name) for node in (cut, *crossing)}
    for node in traced.graph.nodes:
        if node in behind:
            placed[node] = behind_graph.node_copy(node, placed.__getitem__)
    before = fx.GraphModule(traced, before_graph)
    before.graph.eliminate_dead_code()
    before.recompile()
    return before, fx.GraphModule(traced, behind_graph)
