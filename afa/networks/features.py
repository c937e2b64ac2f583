"""Networks that also return the outputs of their aligned layers, without hooks.

torch.fx rewrites the network's own forward so that it returns the named layers' outputs and stops after the last of
them. Weights are shared with the network, whose state-dict keys stay torchvision's.

``memory_format`` is the memory layout of images, maps and weights: channels_last is the faster one.
With it the CPU's batch-norm sums the values of a channel one by one, so the batch statistics of a
training step are exact to about 1e-5 only, not to 3e-7.
"""

import contextlib
import copy
import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor

from afa.errors import AFAError, ConfigError, one_line
from afa.method.term import MapShape, Outputs
from afa.networks.build import head_name
from afa.networks.graph_rewrites import fold_batch_norms, graph_module, replace_relu6, sum_in_place


class Extractors(NamedTuple):
    """Two modules, images -> dict of outputs. The graphs differ in dropout and in Inception's auxiliary head."""

    train: fx.GraphModule
    eval: fx.GraphModule


def layer_extractors(network: nn.Module, layers: Sequence[str], nodes: Sequence[str] = ()) -> Extractors:
    """Modules that return the outputs of submodules, ``layers``, and of other graph ``nodes``.

    They share the submodules of ``network``, which is on its device: buffers that a graph reads itself are registered
    a second time, and a later move of the network would leave these copies where they are.

    Raises:
        ConfigError: the network does not have such a layer.
    """
    names = [name for name, _ in network.named_modules()]
    if unknown := [layer for layer in layers if layer not in names]:
        near = [f"'{match}'" for layer in unknown for match in difflib.get_close_matches(layer, names, n=1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"aligned_layers: {type(network).__name__} has no layer {', '.join(unknown)}{hint}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the differences of the two graphs
        try:
            traced = create_feature_extractor(network, [*layers, *nodes])
        except ValueError as error:
            raise ConfigError(f"aligned_layers: {one_line(error).partition(' Hint')[0]}; choose other layers") from None
    for graph in (traced.train_graph, traced.eval_graph):
        # An in-place activation directly after an aligned layer (VGG) would overwrite the layer's map.
        outputs = next(node for node in graph.nodes if node.op == "output").all_input_nodes
        for user in (user for node in outputs for user in node.users if user.op == "call_module"):
            module = traced.get_submodule(user.target)
            if getattr(module, "inplace", False):
                module.inplace = False
        sum_in_place(traced, graph)
    # Not torchvision's module, which generates its code again at each change of the mode; torch.compile would, too.
    return Extractors(graph_module(network, traced.train_graph), graph_module(network, traced.eval_graph))


class FeatureNetwork(nn.Module):
    """The trained network, which also returns the maps of its aligned layers.

    Args:
        network: a classification network on its device; checkpoints contain its ``state_dict()``.
        aligned_layers: module names, shallow to deep; may be empty.
        with_features: return the head's input too, for terms that have a head of their own.
    """

    def __init__(
        self,
        network: nn.Module,
        aligned_layers: Sequence[str],
        memory_format: torch.memory_format = torch.channels_last,
        *,
        with_features: bool = False,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=memory_format)
        self.memory_format = memory_format
        self.aligned_layers = tuple(aligned_layers)
        self._head = head_name(network)
        self._features = ""
        if with_features:
            tracer = NodePathTracer()
            calls = [node for node in tracer.trace(network).nodes if node.op == "call_module"]
            # A layer, or an operation such as ``flatten``.
            self._features = next(tracer.node_to_qualname[n.args[0]] for n in calls if n.target == self._head)
        self._frozen = False
        nodes = [self._features, self._head] if with_features else [self._head]
        # Tuples, so that nn.Module does not register the parameters a second time.
        self._extractors = layer_extractors(network, aligned_layers, nodes)
        self._compiled: tuple[Any, ...] = ()
        replace_relu6(network)  # after tracing: torch.fx cannot trace the replacement

    def compile_training(self) -> None:
        """Compile forward and backward passes in train mode with torch.compile.

        Each takes minutes at its first call, and again for each other batch size; see ``compile_errors``.
        """
        self._compiled = (torch.compile(self._extractors.train, dynamic=False),)

    @contextlib.contextmanager
    def compile_errors(self) -> Iterator[None]:
        """Context of a training step, which compiles; raises AFAError if torch cannot compile on this machine."""
        if not self._compiled:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        try:
            yield
        except TorchDynamoException as error:
            raise AFAError(
                f"compile = true: torch cannot compile here ({one_line(error)}); set compile = false"
            ) from None

    def freeze_backbone(self) -> None:
        """Freeze the weights and the batch-norm statistics of the backbone, so that only the head is trained."""
        self._frozen = True
        for parameter in self.backbone_parameters():
            parameter.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FeatureNetwork":
        """Train or eval mode; with a frozen backbone everything stays in eval mode, the head's dropout too."""
        return super().train(mode and not self._frozen)

    @property
    def extractor(self) -> fx.GraphModule:
        """Images -> dict of outputs, in the current mode, not compiled."""
        return self._extractors.train if self.training else self._extractors.eval

    def forward(self, images: Tensor) -> Outputs:
        """(B, 3, S, S) normalised images -> aligned maps and (B, K) logits, and (B, F) features if asked for."""
        run = self._compiled[0] if self._compiled and self.training else self.extractor
        outputs = run(images.contiguous(memory_format=self.memory_format))
        maps = tuple(outputs[layer] for layer in self.aligned_layers)
        return Outputs(maps, outputs[self._features] if self._features else None, outputs[self._head])

    @torch.no_grad()
    def evaluator(self) -> Callable[[Tensor], Tensor]:
        """The current network in eval mode with batch-norms folded: (B, 3, S, S) images -> (B, K) logits."""
        extractor = self.eval().extractor
        graph = copy.deepcopy(extractor.graph)
        output = next(node for node in graph.nodes if node.op == "output")
        output.args = (output.args[0][self._head],)
        folded = fold_batch_norms(extractor, graph).to(memory_format=self.memory_format)
        return lambda images: folded(images.contiguous(memory_format=self.memory_format))

    def head_parameters(self) -> list[nn.Parameter]:
        """The head's weight and bias."""
        return list(self.network.get_submodule(self._head).parameters())

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters but the head's."""
        head = {id(parameter) for parameter in self.head_parameters()}
        return [parameter for parameter in self.network.parameters() if id(parameter) not in head]

    def idle_parameters(self) -> list[nn.Parameter]:
        """Parameters on which no output depends: Inception's auxiliary head."""
        used = {id(parameter) for parameter in self.extractor.parameters()}
        return [parameter for parameter in self.network.parameters() if id(parameter) not in used]

    @torch.no_grad()
    def map_shapes(self, image_size: int) -> list[MapShape]:
        """Shapes of the aligned maps for one image of ``image_size`` pixels a side, found by a forward pass.

        Raises:
            ConfigError: the output of an aligned layer is not a map.
        """
        device = next(self.network.parameters()).device
        training = self.training
        maps = self.eval()(torch.zeros(1, 3, image_size, image_size, device=device)).maps
        self.train(training)
        if not_maps := [name for name, m in zip(self.aligned_layers, maps, strict=True) if m.ndim != 4]:
            raise ConfigError(f"aligned_layers: the output of {', '.join(not_maps)} is not a (B, C, H, W) map")
        return [MapShape(*m.shape[1:]) for m in maps]


class FrozenSource:
    """The source network in eval mode with folded batch-norms, without gradients.

    It stops after the last output that is asked for. Not an ``nn.Module``, so the ``.train()``, ``.parameters()`` and
    ``.state_dict()`` of a trained module do not include it.

    Arguments as ``FeatureNetwork``'s; ``with_logits``: return the logits of its own classifier too.
    """

    def __init__(
        self,
        network: nn.Module,
        aligned_layers: Sequence[str],
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
        *,
        with_logits: bool = False,
    ) -> None:
        self._layers = tuple(aligned_layers)
        self._head = head_name(network) if with_logits else ""
        self._memory_format = memory_format
        extractor = layer_extractors(network, aligned_layers, [self._head] if with_logits else []).eval
        folded = fold_batch_norms(extractor, extractor.graph).requires_grad_(False)
        self._extractor = folded.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]

    @torch.no_grad()  # not inference_mode: the backward pass of the attention needs the maps
    def __call__(self, images: Tensor) -> Outputs:
        """(B, 3, S, S) normalised images -> aligned maps, and (B, K) logits if asked for."""
        outputs = self._extractor(images.contiguous(memory_format=self._memory_format))
        maps = tuple(outputs[layer] for layer in self._layers)
        return Outputs(maps, logits=outputs[self._head] if self._head else None)
