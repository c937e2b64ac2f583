"""Weights in files: read safely, cleaned of wrappers, fitted to a network or refused by name."""

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from afa.errors import CheckpointError, one_line

StateDict = Mapping[str, Tensor]
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's


def load_file_safely(path: Path) -> dict:
    """What a .pth or .safetensors file holds: tensors and plain values, no code is ever run.

    Raises:
        CheckpointError: no such file, damaged, or a pickle that needs more than plain data.
    """
    try:
        content = _read(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # on altered bytes torch raises nearly every type
        raise CheckpointError(f"{path}: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; a state dict is expected")
    return content


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        _check_unpacked_size(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on what it is about to refuse
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_unpacked_size(path: Path) -> None:
    """torch.save compresses nothing, so an archive larger inside than outside was made to fill the memory."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked:,} bytes")


def _reason(error: Exception) -> str:
    """Why a file is refused, in one line; torch's own lines tell how to run the code in it."""
    reason = one_line(error).partition(". This is an internal")[0]
    if isinstance(error, pickle.UnpicklingError):
        if needed := re.search(r"GLOBAL (\S+)", str(error)):
            return f"refused, it holds more than tensors and plain values: {needed[1]}"
        reason = "no pickle of tensors"
    return f"not a readable file of weights (torn, altered or empty?): {reason}"


def state_dict_of(content: Mapping, path: Path) -> dict[str, Tensor]:
    """The state dict in a file's content: bare, or under ``model`` or ``state_dict``; wrappers' prefixes removed."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (tensors under their names, bare or under 'model')")
    strange = [name for name, value in tensors.items() if not _is_plain(value)]
    if strange:
        raise CheckpointError(f"{path}: {strange[0]} is no plain tensor, all of whose values are in the file")
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Whether its values are all there: a few bytes can claim a tensor that would fill any memory once copied."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_complex() or tensor.is_nested)
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    )


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
