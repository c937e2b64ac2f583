"""Which device a run uses."""

import ctypes

import torch

from afa.config.launch import Launch
from afa.errors import ConfigError


def choose_device(gpu_id: str, launch: Launch = Launch()) -> tuple[torch.device, str]:  # noqa: B008 (a tuple)
    """The device that ``gpu_id`` names, and a line to say where it is not the one asked for (else an empty one).

    Of several processes on a machine each has the card of its own number, unless ``gpu_id`` is ``cpu``.

    Raises:
        ConfigError: not a card's number, or the machine has no such card.
    """
    if launch.size > 1:
        return _own_device(gpu_id, launch)
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


def _own_device(gpu_id: str, launch: Launch) -> tuple[torch.device, str]:
    if gpu_id == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu"), "" if gpu_id == "cpu" else "no CUDA card here: running on the CPU"
    cards = torch.cuda.device_count()
    if launch.local_size > cards:
        raise ConfigError(
            f"torchrun: {launch.local_size} processes on a machine of {cards} cards; "
            f"start {cards} (--nproc_per_node={cards}), or gpu_id=cpu"
        )
    note = "" if gpu_id == "0" else f"gpu_id = {gpu_id}: not looked at, each process has the card of its own number"
    return torch.device("cuda", launch.local_rank), note


def keep_freed_memory(device: torch.device) -> None:
    """Have glibc keep the memory that tensors on the CPU free, for the next ones; for a card nothing is done.

    It gives large pieces back at once, and the system fills each page with zeros before it is used again: a quarter
    of a step's time for MobileNetV2. The process holds its largest amount of memory to its end.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if device.type == "cpu" and mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)
