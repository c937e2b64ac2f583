"""Which device a run uses."""

import ctypes

import torch

from afa.errors import ConfigError


def choose_device(gpu_id: str) -> tuple[torch.device, str]:
    """The device that ``gpu_id`` names, and a line to say where it is not the one asked for (else an empty one).

    Raises:
        ConfigError: not a card's number, or the machine has no such card.
    """
    first, _, more = gpu_id.replace(" ", "").partition(",")
    if first == "cpu":
        return torch.device("cpu"), ""
    if not first.isdigit():
        raise ConfigError(
            f"gpu_id: '{gpu_id}' is no card; write the number of a CUDA card (nvidia-smi lists them) or cpu"
        )
    if not torch.cuda.is_available():
        return torch.device("cpu"), "no CUDA card here: running on the CPU"
    if int(first) >= torch.cuda.device_count():
        raise ConfigError(
            f"gpu_id: there is no card {first}; this machine has cards 0 to {torch.cuda.device_count() - 1}"
        )
    note = ""
    if more:
        note = (
            f"gpu_id: one run uses one card, here {first}; for the others start one run each, "
            f"for example gpu_id={more.split(',')[0]} seed=2 exp_id=<name>"
        )
    return torch.device("cuda", int(first)), note


def keep_freed_memory() -> None:
    """Have glibc keep the memory that tensors on the CPU free, for the next ones.

    It gives large pieces back at once, and the system fills each page with zeros before it is used again: a quarter
    of a step's time for MobileNetV2. The process holds its largest amount of memory to its end.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)
