"""What a method's terms have in common: what they are built from, what they read, what they return."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class MapShape(NamedTuple):
    """Shape of an aligned layer's map for one image."""

    channels: int
    height: int
    width: int


class Given(NamedTuple):
    """What a term may be built from, as it stands when the stage begins.

    Attributes:
        shapes: of the aligned layers' maps.
        fixed_weights: one tensor a layer, where the method's row asks for them.
        backbone: the target's parameters without the head's, on their device.
        old_head: weight (K, F) and bias (K,) of the source's own classifier, where a term reads it.
    """

    shapes: Sequence[MapShape] = ()
    fixed_weights: Sequence[Tensor] = ()
    backbone: Sequence[Tensor] = ()
    old_head: tuple[Tensor, Tensor] | None = None


class Term(nn.Module):
    """One term of an objective. Its parameters are trained with the target's; its state is in the checkpoints.

    Attributes:
        name: names its state and its figures.
        reads: ``maps``: both networks' aligned maps; ``old_head``: of the source the logits of its own
            classifier, of the target last in the list what its head reads; ``weights``: neither.
        summed: the loss is a sum over the images of a batch, not their mean.
    """

    name: ClassVar[str]
    reads: ClassVar[str] = "maps"
    summed: ClassVar[bool] = False

    def __init__(self, given: Given) -> None:
        super().__init__()

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What both networks show of a batch -> the loss, a scalar, and each attention's entropy, if it has any."""
        raise NotImplementedError

    @property
    def attention_names(self) -> list[str]:
        """``<name>_1`` .., one for each entropy, shallow to deep."""
        return []

    def set_progress(self, done: float) -> None:
        """``done`` of the stage, from 0 towards 1, is over; told before each epoch."""
