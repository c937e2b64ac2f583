"""The objective of a stage (eq. 4): classification + alpha * the method's terms + gamma * head penalty."""

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afa.method.catalogue import Method
from afa.method.classification import CLASSIFICATION_LOSSES
from afa.method.penalties import head_penalty
from afa.method.term import Given, Term


class Losses(NamedTuple):
    """One step's losses, scalars; ``total`` alone has alpha and gamma in it.

    ``alignment`` is the sum of the method's terms. ``entropies`` is (A,), one entry for
    each attentive module, see ``Objective.attention_names``.
    """

    classification: Tensor
    head_penalty: Tensor
    alignment: Tensor
    total: Tensor
    entropies: Tensor


def term_classes(method: Method) -> list[type[Term]]:
    """The classes that a method's row names."""
    names = [term.rpartition(".") for term in method.terms]
    return [getattr(import_module(f"afa.method.{file}"), name) for file, _, name in names]


def what_is_read(method: Method) -> set[str]:
    """What the method's terms read, see ``Term.reads``."""
    return {term.reads for term in term_classes(method)}


class Objective(nn.Module):
    """A method's losses. Its parameters and state are those of the terms alone: attentive modules, an old head.

    Args:
        method: the row of METHODS.
        given: what its terms are built from.
        head: the target's head, on its device.
        alpha, gamma: weights of the terms and of the head penalty.
        classification: a key of CLASSIFICATION_LOSSES.
    """

    def __init__(
        self,
        method: Method,
        given: Given,
        *,
        head: Sequence[Tensor],
        alpha: float,
        gamma: float,
        classification: str = "cross_entropy",
    ) -> None:
        super().__init__()
        self.alignments = nn.ModuleDict({term.name: term(given) for term in term_classes(method)})
        self.alpha = alpha
        self.gamma = gamma if method.head_penalty else 0.0
        self.classification = CLASSIFICATION_LOSSES[classification]
        self._head = tuple(head)  # so that nn.Module does not take the target's parameters for its own

    @property
    def terms(self) -> list[Term]:
        """The method's terms."""
        return [term for term in self.alignments.values() if isinstance(term, Term)]

    @property
    def attention_names(self) -> list[str]:
        """``spatial_1`` .. or ``channel_1`` .., in the order of ``Losses.entropies``, shallow to deep."""
        return [name for term in self.terms for name in term.attention_names]

    def set_progress(self, done: float) -> None:
        """Tell the terms which part of the stage is over, before each epoch."""
        for term in self.terms:
            term.set_progress(done)

    def forward(
        self, logits: Tensor, labels: Tensor, source: Sequence[Tensor], target: Sequence[Tensor], share: float = 1.0
    ) -> Losses:
        """(B, K) logits, (B,) labels and what the terms read of both networks -> the losses.

        Where these are a part of a batch, its ``share``, the losses are such that the mean over the parts,
        weighted by their shares, is the whole batch's: a sum over the images is scaled up.
        """
        classification = self.classification(logits, labels)
        penalty = head_penalty(self._head)
        alignment, entropies = logits.new_zeros(()), []
        for term in self.terms:
            loss, term_entropies = term(source, target)
            alignment = alignment + (loss / share if term.summed and 0 < share < 1 else loss)
            entropies += term_entropies
        return Losses(
            classification=classification,
            head_penalty=penalty,
            alignment=alignment,
            total=classification + self.alpha * alignment + self.gamma * penalty,
            entropies=torch.stack(entropies) if entropies else logits.new_zeros(0),
        )
