"""Terms on the outputs of the old classifier: LwF and soft fine-tuning.

The target keeps the source's own classifier beside its new head, on the same
backbone, and trains it on: it belongs to the term, as the attentions belong to theirs,
and is not part of the trained network. What it should answer is what the frozen source
answers for the same image, after the same augmentation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from afa.method.term import Given, Term

TEMPERATURE = 2.0
"""LwF's."""


def distillation(recorded: Tensor, answered: Tensor, temperature: float) -> Tensor:
    """-1/B sum_bk y_bk log p_bk, with y = softmax(recorded / T) and p = softmax(answered / T), both (B, K) logits."""
    wanted = (recorded / temperature).softmax(dim=1)
    return -(wanted * (answered / temperature).log_softmax(dim=1)).sum(dim=1).mean()


class _OldHead(Term):
    """The old classifier, begun from the source's weights."""

    reads = "old_head"

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        assert given.old_head is not None
        weight, bias = given.old_head
        # On no device: nothing is drawn from the generator for values that are replaced at once.
        self.head = nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device=weight.device)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)


class Distillation(_OldHead):
    """LwF (Li and Hoiem, Learning without forgetting, TPAMI 2017, eq. 2, 3), temperature T = 2.

    -1/B sum_bk y'_bk log p'_bk over the old classes k: y' the source's outputs for the
    image, p' the old head's, both softened at T. ``alpha`` is their lambda_o (theirs is 1).
    Their first phase, in which the new head trains alone, is left out, and their weight
    decay of 5e-4 is the config's: as the AFA paper compares, all methods train in one go.
    """

    name = "lwf"

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The source's (B, K) logits, and last in ``target`` the (B, F) input of its head."""
        return distillation(source[-1], self.head(target[-1]), TEMPERATURE), []


class SoftRemoval(_OldHead):
    """Soft fine-tuning (Zhao et al., Effective domain knowledge transfer with soft fine-tuning, 2019).

    The source's loss is kept, and its weight falls to 0 while the target trains: (1 - t) L_source,
    t the part of the epochs that is over. Theirs draws L_source from source images and their labels.
    Source images are not at hand here, so what stands in is the source's own soft labels on the
    target images: L_source = -1/B sum_bk y_bk log p_bk, without a temperature. Linear in t is our
    choice.
    """

    name = "soft_ft"
    kept: Tensor

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        # A tensor, so that a compiled step is not compiled anew each epoch; told anew after a resume.
        self.register_buffer("kept", self.head.bias.new_ones(()), persistent=False)

    def set_progress(self, done: float) -> None:
        self.kept.fill_(1 - done)

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The source's (B, K) logits, and last in ``target`` the (B, F) input of its head."""
        return self.kept * distillation(source[-1], self.head(target[-1]), 1.0), []
