"""The objective of a stage (eq. 4): classification + alpha * the method's terms + gamma * head penalty."""

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afa.method.catalogue import Method
from afa.method.classification import CLASSIFICATION_LOSSES
from afa.method.penalties import head_penalty
from afa.method.term import Outputs, Term, TermInputs


class Losses(NamedTuple):
    """One step's losses, scalars; only ``total`` includes alpha and gamma.

    ``alignment`` is the sum of the method's terms. ``entropies`` is (A,), one entry for
    each attentive module, in the order of ``Objective.attention_names``.
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


def required_inputs(method: Method) -> set[str]:
    """The outputs that the method's terms read: ``maps``, ``old_head``, both or neither; see ``Term.reads``."""
    return {name for term in term_classes(method) for name in term.reads}


class Objective(nn.Module):
    """A method's losses. Its parameters and state belong to the terms only: attentive modules, an old head.

    Args:
        method: the row of METHODS.
        inputs: arguments of the terms' constructors.
        head: the target's head, weight and bias, on its device.
        alpha, gamma: weights of the terms and of the head penalty.
        classification: a key of CLASSIFICATION_LOSSES.
        class_weights: (K,) factors of the classification losses of the images of each class; None: 1.

    Attributes:
        alignments: the terms by name; checkpoints store their state under this prefix.
        summed_factor: factor of the terms that are summed over a batch. With N processes that each hold 1/N
            of a batch, N makes the mean of their losses the loss of the batch.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        method: Method,
        inputs: TermInputs,
        *,
        head: Sequence[Tensor],
        alpha: float,
        gamma: float,
        classification: str = "cross_entropy",
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.alignments = nn.ModuleDict({term.name: term(inputs) for term in term_classes(method)})
        self.alpha = alpha
        self.gamma = gamma if method.head_penalty else 0.0
        self.classification = CLASSIFICATION_LOSSES[classification]
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.summed_factor = 1.0
        self._head = tuple(head)  # a tuple, so that nn.Module does not register the target's parameters

    @property
    def terms(self) -> list[Term]:
        """The method's terms."""
        return [term for term in self.alignments.values() if isinstance(term, Term)]

    @property
    def attention_names(self) -> list[str]:
        """``spatial_1``, ... or ``channel_1``, ..., in the order of ``Losses.entropies``, shallow to deep."""
        return [name for term in self.terms for name in term.attention_names]

    def set_progress(self, done: float) -> None:
        """Pass the fraction of finished epochs to the terms; called before each epoch."""
        for term in self.terms:
            term.set_progress(done)

    def forward(self, source: Outputs, target: Outputs, labels: Tensor) -> Losses:
        """Outputs of both networks for a batch, which include the target's (B, K) logits, and (B,) labels -> losses."""
        assert target.logits is not None
        weights = None if self.class_weights is None else self.class_weights[labels]
        classification = self.classification(target.logits, labels, weights)
        penalty = head_penalty(self._head)
        alignment = target.logits.new_zeros(())
        entropies: list[Tensor] = []
        for term in self.terms:
            loss, term_entropies = term(source, target)
            alignment = alignment + (self.summed_factor * loss if term.summed else loss)
            entropies += term_entropies
        return Losses(
            classification=classification,
            head_penalty=penalty,
            alignment=alignment,
            total=classification + self.alpha * alignment + self.gamma * penalty,
            entropies=torch.stack(entropies) if entropies else target.logits.new_zeros(0),
        )
