"""Reads files of weights safely, removes prefixes of wrappers, and loads the weights into a network."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from afa.errors import CheckpointError, one_line
from afa.files import open_regular

_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "model_state", "weights")
_PREFIXES = ("module", "_orig_mod", "model", "net", "network")


def load_file_safely(path: Path) -> dict:
    """The content of a .pth or .safetensors file: tensors and plain values. Code in the file is never executed.

    Raises:
        CheckpointError: no such file, damaged, or a pickle that needs more than plain data.
    """
    content: object
    try:
        open_regular(path).close()
        if path.suffix == ".safetensors":
            content = dict(load_file(path))
        else:
            with path.open("rb") as file:
                is_zip = file.read(4) == b"PK\x03\x04"
            if is_zip:
                # torch.save does not compress: an archive whose content is larger was made to exhaust the memory.
                with zipfile.ZipFile(path) as archive:
                    unpacked = sum(info.file_size for info in archive.infolist())
                if unpacked > path.stat().st_size:
                    raise ValueError(f"it would unpack to {unpacked:,} bytes")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, about files that it refuses in any case
                content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch raises nearly every type on modified bytes
        # One line, without torch's advice on how to run the code in the file.
        reason = one_line(error).partition(". This is an internal")[0]
        if isinstance(error, pickle.UnpicklingError):
            if needed := re.search(r"GLOBAL (\S+)", str(error)):
                message = f"{path}: refused, it contains more than tensors and plain values: {needed[1]}"
                raise CheckpointError(message) from None
            reason = "not a pickle of tensors"
        raise CheckpointError(
            f"{path}: not a readable file of weights (truncated, modified or empty?): {reason}"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: contains a {type(content).__name__}; a state dict is expected")
    return content


def state_dict_of(content: Mapping, path: Path) -> dict[str, Tensor]:
    """The state dict in a file's content: bare, or in a wrapper such as ``model``; wrappers' prefixes are removed."""
    for key in _WRAPPERS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: contains no state dict (tensors under their names, bare or under 'model')")
    for name, tensor in tensors.items():
        if problem := problem_of(tensor):
            raise CheckpointError(f"{path}: {name} {problem}")
    # DataParallel's and torch.compile's, also twice; a torchvision network has no module with such a name.
    while (prefix := next(iter(tensors)).partition(".")[0]) in _PREFIXES:
        if not all(name.startswith(f"{prefix}.") for name in tensors):
            break
        tensors = {name.removeprefix(f"{prefix}."): value for name, value in tensors.items()}
    return tensors


def problem_of(value: object) -> str:
    """Why ``value`` cannot be used as a tensor; empty if it can."""
    if not isinstance(value, Tensor):
        return "is not a tensor"
    is_dense = value.layout == torch.strided and value.device.type == "cpu"
    is_plain = not (value.is_quantized or value.is_complex() or value.is_nested)
    # A few bytes can claim a tensor that would exhaust any memory once it is copied.
    if not (is_dense and is_plain and value.untyped_storage().nbytes() >= value.numel() * value.element_size()):
        return "is not a plain tensor with all of its values in the file"
    return ""


def check_tensors(tensors: Mapping[str, object], path: Path | str) -> None:
    """Raise CheckpointError unless all are tensors of finite numbers."""
    for name, tensor in tensors.items():
        problem = problem_of(tensor)
        if not problem and isinstance(tensor, Tensor) and not tensor.float().isfinite().all():
            problem = "contains a value that is not finite"
        if problem:
            raise CheckpointError(f"{path}: {name} {problem}")


def load_state(
    network: nn.Module, state: Mapping[str, Tensor], path: Path | str, *, without: Collection[str] = ()
) -> None:
    """Copy ``state`` into ``network`` in the network's precision, all keys but those in ``without``.

    Raises:
        CheckpointError: keys are missing, unexpected, or of another shape or kind of number; it names the first ten.
    """
    check_tensors(state, path)
    own = {name: value for name, value in network.state_dict().items() if name not in without}
    loaded = {name: value for name, value in state.items() if name not in without}
    # torch before 1.0 did not keep these counters, and .half() rounds them; with a momentum no forward pass reads them.
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in loaded and name not in counters]
    problems = [f"missing {name}" for name in missing]
    problems += [f"unexpected {name}" for name in loaded if name not in own]
    problems += [
        f"{name} has the type {loaded[name].dtype}, the network's {own[name].dtype}"
        for name in own
        if name in loaded and name not in counters and loaded[name].is_floating_point() != own[name].is_floating_point()
    ]
    problems += [
        f"{name} is {tuple(loaded[name].shape)}, the network's {tuple(own[name].shape)}"
        for name in own
        if name in loaded and loaded[name].shape != own[name].shape
    ]
    if problems:
        begins = {name.partition(".")[0] for name in loaded}
        if len(begins) == 1 and not begins & {name.partition(".")[0] for name in own}:
            problems = [f"all its names begin with {begins.pop()}.; remove this prefix"]
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{path}: does not fit the network: {'; '.join(problems[:10])}{more}")
    network.load_state_dict(loaded, strict=False)
