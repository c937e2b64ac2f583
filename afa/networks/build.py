"""Networks from their names: a torchvision classifier with a new head, and its source weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from afa.errors import CheckpointError, ConfigError
from afa.networks.backbones import row_of
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


def load_source_weights(name: str, source_weights: str) -> tuple[dict[str, Tensor], str]:
    """Source weights and their origin: the file ``source_weights``, or if that is empty torchvision's IMAGENET1K_V1.

    torchvision's are read from torch's cache or downloaded. With V2, results could not be compared with the published.

    Raises:
        CheckpointError: see ``load_file_safely``; or not cached and not downloadable, with the file to save.
    """
    if source_weights:
        path = Path(source_weights)
        return state_dict_of(load_file_safely(path), path), str(path)
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
