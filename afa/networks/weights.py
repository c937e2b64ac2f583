"""Weights in files: read safely, cleaned of wrappers, fitted to a network or refused by name."""

import hashlib
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from afa.errors import CheckpointError

StateDict = Mapping[str, Tensor]
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's


def load_file_safely(path: Path) -> dict:
    """What a .pth or .safetensors file holds: tensors and plain values, no code is ever run.

    Raises:
        CheckpointError: no such file, damaged, or a pickle that needs more than plain data.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        needs = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: refused, it holds more than tensors and plain values: {needs}") from None
    except (RuntimeError, EOFError, SafetensorError, OSError, ValueError, KeyError) as error:
        reason = (str(error) or "it is empty").splitlines()[0]
        raise CheckpointError(f"{path}: not a readable file of weights (torn or altered?): {reason}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; a state dict is expected")
    return content


def state_dict_of(content: Mapping, path: Path) -> dict[str, Tensor]:
    """The state dict in a file's content: bare, or under ``model`` or ``state_dict``; wrappers' prefixes removed."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (tensors under their names, bare or under 'model')")
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def load_state(network: nn.Module, state: StateDict, path: Path | str, *, without: Collection[str] = ()) -> None:
    """Copy ``state`` into ``network`` in the network's precision, all keys but those in ``without``.

    Raises:
        CheckpointError: keys missing, unexpected or of another shape; the first ten are named.
    """
    own = {name: value for name, value in network.state_dict().items() if name not in without}
    # torch before 1.0 kept no such counters; they matter to no forward pass with a momentum.
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    given = {name: value for name, value in state.items() if name not in without}
    problems = [f"missing {name}" for name in own if name not in given and name not in optional]
    problems += [f"unexpected {name}" for name in given if name not in own]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the network's {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{path}: does not fit the network: {'; '.join(problems[:10])}{more}")
    network.load_state_dict(given, strict=False)


def download_source_weights(name: str) -> dict[str, Tensor]:
    """torchvision's IMAGENET1K_V1 weights of the network, from its cache or the network.

    V2 weights would make the published numbers incomparable.

    Raises:
        CheckpointError: they are not in the cache and cannot be fetched; says which file to put where.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)["IMAGENET1K_V1"]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{name}: its ImageNet weights cannot be fetched ({error}); put {weights.url} at {cached}, "
            "or give source_weights=<file>"
        ) from None


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
