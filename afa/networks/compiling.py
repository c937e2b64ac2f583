"""torch.compile, with its failures as one line."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from afa.errors import AFAError, one_line


def compiled(module: nn.Module) -> Callable[[Tensor], Any]:
    """``module`` compiled at its first call, which takes minutes; once more for each other size of batch.

    The call raises AFAError where torch cannot compile here.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    fast = torch.compile(module, dynamic=False)

    def call(images: Tensor) -> Any:
        try:
            return fast(images)
        except TorchDynamoException as error:
            raise AFAError(
                f"compile = true: torch cannot compile here ({one_line(error)}); compile = false does without"
            ) from None

    return call
