"""Numerical precision of a training step, and checks that its results are finite.

Losses, weights and evaluation are float32 in every precision.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from afa.errors import ConfigError, NotFiniteError
from afa.method.term import Outputs

_AMPERE = (8, 0)
_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ADVICE = (
    "the last checkpoint is unchanged; try a smaller lr or alpha "
    "(alpha depends on the size of the maps, hence on image_size; with alignment_scale = relative it does not)"
)


@dataclass(frozen=True)
class Precision:
    """``fp32``; ``tf32``: factors of float32 products rounded to 10 bits; ``bf16``, ``fp16``: maps in 16 bits.

    Raises:
        ConfigError: ``device`` does not have the hardware, so the mode would only be slower.
    """

    name: str
    device: torch.device

    def __post_init__(self) -> None:
        needs = _missing_hardware(self.name, self.device)
        if needs:
            raise ConfigError(f"precision: {self.name} needs {needs}; use fp32 here")

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context of the forward pass of a network."""
        dtype = _REDUCED.get(self.name)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def products(self) -> contextlib.AbstractContextManager:
        """Context of a step."""
        return products_in_tf32(self.name == "tf32")

    def upcast(self, outputs: Outputs) -> Outputs:
        """Convert 16-bit outputs of a network to float32."""
        if self.name not in _REDUCED:
            return outputs
        features, logits = (None if x is None else x.float() for x in (outputs.features, outputs.logits))
        return Outputs(tuple(map_.float() for map_ in outputs.maps), features, logits)

    def build_scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, which keeps small fp16 gradients from becoming 0; disabled in the other modes."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


@contextlib.contextmanager
def products_in_tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 products of float32 tensors on a GPU; torch allows them for convolutions by default."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags: list[tuple[Any, str, Any]]
    try:
        flags = [(backend, "allow_tf32", backend.allow_tf32) for backend in (matmul, cudnn)]
        value: Any = allowed
    except RuntimeError:  # the caller has set torch.backends.fp32_precision: then torch refuses to read the older flags
        convolutions = cudnn.conv  # type: ignore[attr-defined]
        flags = [(backend, "fp32_precision", backend.fp32_precision) for backend in (matmul, convolutions)]
        value = "tf32" if allowed else "ieee"
    try:
        for backend, name, _ in flags:
            setattr(backend, name, value)
        yield
    finally:
        for backend, name, before in flags:
            setattr(backend, name, before)


def _missing_hardware(name: str, device: torch.device) -> str:
    """The hardware that a precision needs and ``device`` does not have; empty if there is none."""
    if name == "fp32":
        return ""
    if device.type == "cuda":
        modern = name == "fp16" or torch.cuda.get_device_capability(device) >= _AMPERE
        return "" if modern else "a CUDA GPU of compute capability 8.0 or higher"
    if name != "bf16":
        return "a CUDA GPU"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "" if fast else "a CUDA GPU, or a CPU with avx512_bf16 or amx_bf16 (it is many times slower without)"


class FiniteCheck:
    """Checks the scalars of every step; on a GPU one step later, so that no step waits for the previous one."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._delayed = device, device.type == "cuda"
        self._pending: tuple[list[str], Tensor, torch.cuda.Event | None, str] | None = None

    def check(self, scalars: Mapping[str, Tensor], describe: Callable[[], str]) -> None:
        """Check a step's scalars; ``describe`` identifies the step and is called at once.

        Raises:
            NotFiniteError: one of them is not finite.
        """
        values = torch.stack(list(scalars.values())).to("cpu", non_blocking=True)
        event = None
        if self._delayed:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self.flush()
        self._pending = (list(scalars), values, event, describe())
        if not self._delayed:
            self.flush()

    def flush(self) -> None:
        """Check the scalars that are still pending."""
        if self._pending is None:
            return
        names, values, event, where = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        numbers = dict(zip(names, values.tolist(), strict=True))
        if not all(math.isfinite(number) for number in numbers.values()):
            text = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
            raise NotFiniteError(f"not finite: {text}; {where}; {_ADVICE}")

    def check_weights(self, state: Mapping[str, Tensor], where: str) -> None:
        """Check weights: the losses of a step are computed before its update and do not show what it did to them.

        Raises:
            NotFiniteError: one of the values is not finite.
        """
        finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
        if not all(finite):
            name = list(state)[finite.index(False)]
            raise NotFiniteError(f"not finite: the weights {name}; {where}; {_ADVICE}")
