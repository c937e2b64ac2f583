"""A loss or gradient that is no number stops the run: every weight after it would be worthless."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from afa.errors import NotFiniteError

Figures = dict[str, Tensor]
_MEND = (
    "the last checkpoint is as it was; a smaller lr or alpha may do "
    "(alpha depends on the size of the maps, so on image_size), or grad_clip"
)


class FiniteCheck:
    """Looks at the figures of every step; on a CUDA card one step late, so that no step waits for the one before."""

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._pending: tuple[list[str], Tensor, torch.cuda.Event | None, str] | None = None

    def look(self, figures: Figures, describe: Callable[[], str]) -> None:
        """Check a step's scalars; ``describe`` says which step, and is called at once.

        Raises:
            NotFiniteError: one of them is not finite.
        """
        values = torch.stack(list(figures.values())).to("cpu", non_blocking=True)
        event = None
        if self._late:
            event = torch.cuda.Event()
            event.record()
            self.flush()
        self._pending = (list(figures), values, event, describe())
        if not self._late:
            self.flush()

    def flush(self) -> None:
        """Check what has not been checked yet."""
        if self._pending is None:
            return
        names, values, event, where = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        numbers = dict(zip(names, values.tolist(), strict=True))
        if not all(math.isfinite(number) for number in numbers.values()):
            text = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
            raise NotFiniteError(f"not finite: {text}; {where}; {_MEND}")

    def check_weights(self, state: Mapping[str, Tensor], where: str) -> None:
        """A step's losses are those before it: what it did to the weights shows only in the next.

        Raises:
            NotFiniteError: one of the values is not finite.
        """
        finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
        if not all(finite):
            name = list(state)[finite.index(False)]
            raise NotFiniteError(f"not finite: the weights {name}; {where}; {_MEND}")
