"""Networks from their names: a torchvision classifier with a new head, and its source weights."""

import contextlib
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.ops import Conv2dNormActivation

from afa.errors import CheckpointError, ConfigError
from afa.networks.backbones import row_of, spread_over
from afa.networks.weights import load_file_safely, load_state, state_dict_of


def head_name(network: nn.Module) -> str:
    """Name of the network's last linear layer: ``fc``, ``classifier.1``, ..."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ConfigError(f"{type(network).__name__} has no linear layer to replace by a new head")
    return names[-1]


def head_keys(network: nn.Module) -> list[str]:
    """State-dict keys of the head."""
    name = head_name(network)
    return [f"{name}.{key}" for key in network.get_submodule(name).state_dict()]


def build_network(name: str, num_classes: int) -> nn.Module:
    """A torchvision classification network whose head has ``num_classes`` outputs; state-dict keys are torchvision's.

    The head has PyTorch's default initialisation. Only the head draws from the global generator,
    so its values do not depend on the backbone's own initialisation.

    Raises:
        ConfigError: torchvision has no such network.
    """
    if name not in list_models(module=torchvision.models):
        raise ConfigError(f"base_model_name: torchvision has no classification network '{name}'")
    with torch.random.fork_rng(devices=[]):
        network = get_model(name, weights=None, **dict(row_of(name).options))
    head = head_name(network)
    network.set_submodule(head, nn.Linear(network.get_submodule(head).in_features, num_classes))
    return network


def find_layers(name: str, count: int) -> tuple[str, ...]:
    """``count`` layers of a network without a row in BACKBONES, shallow to deep, chosen as the paper's are.

    They are ends of blocks, equally many for each of the last four sizes of the maps. If a size has too few, they are
    evenly spaced over the ends of these sizes; if these are too few, over all convolutions.

    Raises:
        ConfigError: there are fewer convolutions.
    """
    stages, convolutions = block_ends(name)
    ends = [layer for stage in stages[-4:] for layer in stage]
    for choice in (stages[-4:], [ends], [convolutions]):
        with contextlib.suppress(ValueError):
            return spread_over(choice, count)
    raise ConfigError(
        f"aligned_layers: {name} has {len(convolutions)} convolutions with a map, fewer than {count}; set the names of "
        "modules, or a method that reads no feature maps"
    )


@lru_cache
def block_ends(name: str) -> tuple[list[list[str]], list[str]]:
    """The layers at the ends of the blocks of a network, a list for each size of the maps, and all its convolutions.

    They are in the order of execution. An end is the last convolution of a block, before batch-norm (after it if the
    convolution is a Conv2dNormActivation), or the block if it concatenates several convolutions. In a network without
    blocks (VGG) it is any convolution. The sizes are those of a forward pass without values.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(name, 1).to("meta").eval()
    maps: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}  # module, its input and its output, in order of execution

    def record(layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            maps[layer] = (module, inputs[0], output)

    for layer, module in network.named_modules():
        if layer:
            module.register_forward_hook(partial(record, layer))
    side = row_of(name).image_size
    network(torch.zeros(1, 3, side, side, device="meta"))
    # torch.fx does not look into torchvision.ops: the maps inside this module cannot be returned.
    wrapped = tuple(f"{layer}." for layer, (module, *_) in maps.items() if isinstance(module, Conv2dNormActivation))
    convolutions = [
        layer
        for layer, (module, *_) in maps.items()
        if isinstance(module, nn.Conv2d | Conv2dNormActivation) and not layer.startswith(wrapped)
    ]
    ends: dict[int, str] = {}  # id of the output -> the innermost module that returns it
    blocks: list[str] = []
    for layer, (module, first, output) in reversed(maps.items()):
        inner = [other for other in convolutions if other.startswith(f"{layer}.")]
        sizes = {maps[other][2].shape[2:] for other in inner}
        linear = sum(isinstance(child, nn.Linear) for child in module.modules())
        is_wrapper = not inner or len(inner) + linear < 2  # of a convolution and its batch-norm
        if is_wrapper or len(sizes) > 2 or any(layer.startswith(f"{block}.") for block in blocks):
            continue
        if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):  # a block, not a list of blocks
            blocks.append(layer)
        # A convolution that reads the input of the block may be its shortcut.
        last = ([other for other in inner if maps[other][1] is not first] or inner)[-1]
        if maps[last][2].shape[2:] == output.shape[2:]:
            end = last if maps[last][2].shape == output.shape else layer
            ends[id(maps[end][2])] = end
    stages: dict[torch.Size, list[str]] = {}
    for layer in maps:
        if layer in (ends.values() or convolutions):
            stages.setdefault(maps[layer][2].shape[2:], []).append(layer)
    return list(stages.values()), convolutions


def load_source_weights(name: str, source_weights: str) -> tuple[dict[str, Tensor], str]:
    """Source weights and their origin: the file ``source_weights``, or if that is empty torchvision's IMAGENET1K_V1.

    torchvision's are read from torch's cache or downloaded. With V2, results could not be compared with the published.

    Raises:
        CheckpointError: see ``load_file_safely``; or not cached and not downloadable, with the file to save.
    """
    if source_weights:
        path = Path(source_weights)
        return state_dict_of(load_file_safely(path), path), str(path)
    if torch.hub.get_dir().startswith("~"):  # torch would create a folder of this name
        raise CheckpointError(f"{name}: no home folder for its weights; set HOME, TORCH_HOME or source_weights=<file>")
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        advice = f"save {weights.url} as {cached}, or set source_weights=<file>"
        raise CheckpointError(f"{name}: its ImageNet weights cannot be downloaded ({error}); {advice}") from None
    return state, f"torchvision {name} IMAGENET1K_V1"


def load_backbone(network: nn.Module, state: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copy all weights but the head's, which ``state`` may lack or have for other classes."""
    load_state(network, state, origin, without=head_keys(network))


def read_old_head(network: nn.Module, state: Mapping[str, Tensor], origin: Path | str) -> tuple[Tensor, Tensor]:
    """Weight (K, F) and bias (K,) of the head in ``state``, whatever its number of outputs.

    Raises CheckpointError if there is no head, or its number of inputs is not the network's number of features.
    """
    weight, bias = (state.get(key) for key in head_keys(network))
    features = network.get_submodule(head_name(network)).in_features
    if weight is None or bias is None:
        raise CheckpointError(
            f"{origin}: contains no {' and '.join(head_keys(network))}; LwF and soft fine-tuning keep the source's own "
            "classifier: set source_weights to a file that has it"
        )
    if weight.shape != (len(bias), features):
        raise CheckpointError(f"{origin}: its classifier is {tuple(weight.shape)}; the network has {features} features")
    return weight.float(), bias.float()
