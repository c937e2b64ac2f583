"""How exactly a training step computes. Losses, weights and evaluation are float32 whatever is chosen."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from afa.errors import ConfigError

_AMPERE = (8, 0)
_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """``fp32``; ``tf32``: products of float32 rounded to 10 bits; ``bf16``, ``fp16``: maps in 16 bits.

    Raises:
        ConfigError: ``device`` has no hardware for it: there it would only be slower.
    """

    name: str
    device: torch.device

    def __post_init__(self) -> None:
        needs = _missing_hardware(self.name, self.device)
        if needs:
            raise ConfigError(f"precision: {self.name} needs {needs}; here fp32 is right")

    def autocast(self) -> contextlib.AbstractContextManager:
        """Around the forward pass of a network."""
        dtype = _REDUCED.get(self.name)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def products(self) -> contextlib.AbstractContextManager:
        """Around a whole step."""
        return products_in_tf32(self.name == "tf32")

    def upcast(self, tensor: Tensor) -> Tensor:
        """To float32 what a network gave in 16 bits."""
        return tensor.float() if tensor.dtype in _REDUCED.values() else tensor

    def build_scaler(self) -> torch.amp.GradScaler:
        """Keeps fp16's small gradients from becoming 0; does nothing for the others."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


@contextlib.contextmanager
def products_in_tf32(allowed: bool) -> Iterator[None]:
    """Whether a CUDA card may round the factors of float32 products; torch's own default is yes for convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = allowed, allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _missing_hardware(name: str, device: torch.device) -> str:
    """What ``device`` lacks for a precision; empty: nothing."""
    if name == "fp32":
        return ""
    if device.type == "cuda":
        modern = name == "fp16" or torch.cuda.get_device_capability(device) >= _AMPERE
        return "" if modern else "a CUDA card of compute capability 8.0 or higher"
    if name != "bf16":
        return "a CUDA card"
    able = torch.cpu.get_capabilities()
    fast = able.get("avx512_bf16") or able.get("amx_bf16")
    return "" if fast else "a CUDA card, or a CPU with avx512_bf16 or amx_bf16 (without, it is many times slower)"
