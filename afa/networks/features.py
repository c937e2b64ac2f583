"""From a network and layer names to logits and aligned maps, without hooks.

torch.fx rewrites the network's own forward so that it returns the named layers' outputs
and runs no further than the last of them. Weights are shared with the network,
whose state-dict keys stay torchvision's.

``memory_format`` is how images, maps and weights lie in memory: channels_last is the faster one.
The CPU's batch-norm sums a channel's values one by one there, so batch statistics of a
training step are exact to about 1e-5 only, not to 3e-7.
"""

import copy
import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor

from afa.errors import ConfigError
from afa.method.term import MapShape
from afa.networks.batch_norm import SharedBatchNorm2d
from afa.networks.build import head_name
from afa.networks.compiling import compiled
from afa.networks.folding import fold_batch_norms
from afa.networks.lean import make_lean, sum_in_place

HEAD_INPUT = "<head's input>"
"""Stands among layers for what the head reads: (B, F) features."""
_WHOLE = {"leaf_modules": [SharedBatchNorm2d]}
"""Modules that torch.fx is not to look into."""


def layer_extractor(network: nn.Module, layers: Sequence[str]) -> Any:
    """A module that returns the layers' outputs, in order, as a dict."""
    nodes = {_head_input(network) if layer == HEAD_INPUT else layer: layer for layer in layers}
    with warnings.catch_warnings():
        # Its train and eval graphs differ on purpose (dropout, Inception's auxiliary head).
        warnings.simplefilter("ignore")
        extractor = create_feature_extractor(network, nodes, tracer_kwargs=_WHOLE)
    _forbid_in_place_changes(extractor)
    for graph in (extractor.train_graph, extractor.eval_graph):
        sum_in_place(extractor, graph)
    extractor.recompile()
    return extractor


def _head_input(network: nn.Module) -> str:
    """Name in the network's graph of what the head reads: a layer, or an operation such as ``flatten``."""
    tracer = NodePathTracer(**_WHOLE)
    graph = tracer.trace(network)
    head = next(node for node in graph.nodes if node.op == "call_module" and node.target == head_name(network))
    return tracer.node_to_qualname[head.args[0]]


def _forbid_in_place_changes(extractor: Any) -> None:
    """An in-place activation right behind an aligned layer (VGG) would change its map after the fact."""
    for graph in (extractor.train_graph, extractor.eval_graph):
        outputs = next(node for node in graph.nodes if node.op == "output").all_input_nodes
        for user in (user for node in outputs for user in node.users if user.op == "call_module"):
            module = extractor.get_submodule(user.target)
            if getattr(module, "inplace", False):
                module.inplace = False


class FeatureNetwork(nn.Module):
    """The trained network: images -> logits and aligned maps.

    Args:
        network: a classification network; ``network.state_dict()`` is what is saved.
        aligned_layers: module names, shallow to deep; may be empty.
        with_head_input: whether the head's input follows the maps, for terms that have a head of their own.
        memory_format: of images, maps and weights.
    """

    def __init__(
        self,
        network: nn.Module,
        aligned_layers: Sequence[str],
        memory_format: torch.memory_format = torch.channels_last,
        *,
        with_head_input: bool = False,
    ) -> None:
        super().__init__()
        check_layers(network, aligned_layers)
        self.network = network.to(memory_format=memory_format)
        self.memory_format = memory_format
        self.aligned_layers = tuple(aligned_layers)
        self._outputs = [*aligned_layers, *[HEAD_INPUT] * with_head_input]
        self._head = head_name(network)
        self._frozen = False
        self._compiled: Callable[[Tensor], Any] | None = None
        # In a tuple, so that its parameters are not registered a second time.
        self._extractor = (layer_extractor(network, [*self._outputs, self._head]),)
        make_lean(network)  # afterwards: torch.fx cannot look into it

    def compile_training(self) -> None:
        """From now on the forward pass in train mode, and its way back, are compiled."""
        self._compiled = compiled(self._extractor[0])

    def freeze_backbone(self) -> None:
        """From now on only the head trains; the backbone keeps its weights and its batch-norm statistics."""
        self._frozen = True
        for parameter in self.backbone_parameters():
            parameter.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FeatureNetwork":
        """Train or eval mode; a frozen backbone stays in eval mode, and so does the head's dropout with it."""
        mode = mode and not self._frozen
        self._extractor[0].train(mode)
        return super().train(mode)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, S, S) normalised images -> (B, K) logits and the aligned maps, each (B, C, H, W).

        Last among the maps, if asked for, the (B, F) head's input.
        """
        run = self._compiled if self._compiled and self.training else self._extractor[0]
        outputs = run(images.contiguous(memory_format=self.memory_format))
        return outputs[self._head], [outputs[layer] for layer in self._outputs]

    def evaluator(self) -> Callable[[Tensor], Tensor]:
        """The network as it stands, in eval mode with batch-norms folded: (B, 3, S, S) images -> (B, K) logits."""
        extractor = self.eval()._extractor[0]
        graph = copy.deepcopy(extractor.eval_graph)
        output = next(node for node in graph.nodes if node.op == "output")
        output.args = (output.args[0][self._head],)
        folded = fold_batch_norms(extractor, graph).to(memory_format=self.memory_format)
        return lambda images: folded(images.contiguous(memory_format=self.memory_format))

    def has_idle_parameters(self) -> bool:
        """Whether some that train have no part in the outputs: Inception's auxiliary classifier."""
        used = {id(parameter) for parameter in self._extractor[0].parameters()}
        return any(id(p) not in used for p in self.network.parameters() if p.requires_grad)

    def head_parameters(self) -> list[nn.Parameter]:
        """The head's weight and bias."""
        return list(self.network.get_submodule(self._head).parameters())

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters but the head's."""
        head = {id(parameter) for parameter in self.head_parameters()}
        return [parameter for parameter in self.network.parameters() if id(parameter) not in head]

    @torch.no_grad()
    def map_shapes(self, image_size: int) -> list[MapShape]:
        """Shapes of the aligned maps for one image of ``image_size`` pixels a side, found by a dry forward."""
        device = next(self.network.parameters()).device
        training = self.training
        _, maps = self.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
        self.train(training)
        maps = maps[: len(self.aligned_layers)]
        not_maps = [name for name, m in zip(self.aligned_layers, maps, strict=True) if m.ndim != 4]
        if not_maps:
            raise ConfigError(f"aligned_layers: the output of {', '.join(not_maps)} is no (B, C, H, W) map")
        return [MapShape(*m.shape[1:]) for m in maps]


class FrozenSource:
    """The source network: images -> aligned maps; in eval mode, without gradients, run no further than needed.

    Its batch-norms are folded into the convolutions before them. Its head may stand among
    the layers: what it gives is the source's logits.

    Not an ``nn.Module``: no ``.train()``, ``.parameters()`` or ``.state_dict()`` of
    anything that trains can reach it.
    """

    def __init__(
        self,
        network: nn.Module,
        aligned_layers: Sequence[str],
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        check_layers(network, aligned_layers)
        self._layers = tuple(aligned_layers)
        self._memory_format = memory_format
        extractor = layer_extractor(network, aligned_layers)
        folded = fold_batch_norms(extractor, extractor.eval_graph).requires_grad_(False)
        self._extractor = folded.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]

    @torch.no_grad()  # not inference_mode: what the attention reads is kept for its backward pass
    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> the aligned maps, each (B, C, H, W)."""
        outputs = self._extractor(images.contiguous(memory_format=self._memory_format))
        return [outputs[layer] for layer in self._layers]


def check_layers(network: nn.Module, layers: Sequence[str]) -> None:
    """Raises ConfigError for a layer that the network does not have."""
    names = [name for name, _ in network.named_modules()]
    unknown = [layer for layer in layers if layer not in names]
    if unknown:
        near = [match for layer in unknown for match in difflib.get_close_matches(layer, names, n=1)]
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ConfigError(f"aligned_layers: {type(network).__name__} has no layer {', '.join(unknown)}{hint}")
