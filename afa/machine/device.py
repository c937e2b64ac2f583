"""The device that a run uses, and a description of the device, the versions and the source code."""

import ctypes
import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision

import afa
from afa.errors import ConfigError, one_line
from afa.machine.launch import Launch

_ROOT = Path(afa.__file__).parents[1]
_USE_CPU = "gpu_id=cpu runs on the CPU"


def choose_device(gpu_id: str, launch: Launch = Launch()) -> tuple[torch.device, str]:  # noqa: B008 (immutable)
    """Return the device that ``gpu_id`` names, and a note for the user (empty if there is nothing to say).

    Without a GPU the run uses the CPU. Under torchrun each process uses the GPU of its local rank, unless
    ``gpu_id`` is ``cpu``.

    The GPU becomes the current one of this process: torch's streams and events are created on the current GPU.

    Raises:
        ConfigError: ``gpu_id`` is not a GPU number, or the machine does not have that GPU, or torch cannot use it.
    """
    first, _, more = gpu_id.replace(" ", "").partition(",")
    if first == "cpu":
        return torch.device("cpu"), ""
    if not first.isdigit():
        raise ConfigError(
            f"gpu_id: '{gpu_id}' is not a GPU; write the number of a CUDA GPU (nvidia-smi lists them) or cpu"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warning is part of the error below
        available = torch.cuda.is_available()
    if not available:
        return torch.device("cpu"), f"no CUDA GPU found{_why_no_gpu()}: running on the CPU"
    gpus = torch.cuda.device_count()
    if launch.size > 1:
        if launch.local_size > gpus:
            raise ConfigError(
                f"torchrun: {launch.local_size} processes on a machine with {gpus} GPUs; "
                f"start {gpus} (--nproc_per_node={gpus}), or set gpu_id=cpu"
            )
        note = "" if gpu_id == "0" else f"gpu_id = {gpu_id} is ignored: each process uses the GPU of its local rank"
        return _open_gpu(launch.local_rank), note
    if int(first) >= gpus:
        raise ConfigError(f"gpu_id: there is no GPU {first}; this machine has GPUs 0 to {gpus - 1}")
    if not more:
        return _open_gpu(int(first)), ""
    return _open_gpu(int(first)), (
        f"gpu_id: one run uses one GPU, here {first}; start one run for each of the others, "
        f"for example gpu_id={more.split(',')[0]} seed=2 exp_id=<name>"
    )


def _why_no_gpu() -> str:
    """The reason for which no CUDA GPU was found, as an addition to that message.

    Raises:
        ConfigError: there is a GPU, but torch cannot use it, for example because its driver is too old.
    """
    try:
        torch.cuda.init()
    except AssertionError:
        return " (torch is built without CUDA)"
    except RuntimeError as error:
        reason = one_line(error)
        if not reason.startswith(("Found no NVIDIA driver", "No CUDA GPUs are available")):
            raise ConfigError(f"gpu_id: torch {torch.__version__} cannot use the GPU: {reason}; {_USE_CPU}") from None
    return ""


def _open_gpu(index: int) -> torch.device:
    """Make a GPU the current one and use it once, so that a GPU that torch cannot use is reported before a run starts.

    Raises:
        ConfigError: the GPU is too old for this torch, or another process has it exclusively, or it has no memory left.
    """
    device = torch.device("cuda", index)
    try:
        torch.cuda.set_device(device)
        torch.ones(1, device=device).sum().item()
    except RuntimeError as error:
        raise ConfigError(f"gpu_id: GPU {index} cannot be used: {one_line(error)}; {_USE_CPU}") from None
    return device


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({format_threads(torch.get_num_threads())})"


def format_threads(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread{'s' if count != 1 else ''}"


def keep_freed_memory(device: torch.device) -> None:
    """Make glibc reuse the memory of freed CPU tensors; does nothing for a GPU.

    By default glibc returns large blocks to the system, which zeroes each page before its next use: a quarter
    of a MobileNetV2 step. The process keeps its peak memory until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries do not have it
    if device.type == "cpu" and mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def describe_environment(device: torch.device, command: str) -> dict[str, str]:
    """Name -> text; ``command`` is what the user typed, empty if the run was started from Python."""
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "afa": afa.__version__,
        "source_code": source_code(_ROOT),
        "command": command,
    }


def source_code(root: Path) -> str:
    """The git commit of a working tree and the number of files that differ from it."""
    if not (root / ".git").exists():
        return "not a git working tree"
    try:
        options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *arguments], **options).stdout
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown: git failed"
    changed = len(changes.splitlines())
    return f"commit {commit.strip()}" + (f", {changed} files changed" if changed else "")
