"""METHODS: every method of the paper's comparison as one row of plain data.

This file imports no torch, so that a config can be checked at once. What the
words in a row compute is in ``objectives.py``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What a method adds to the classification loss, and what it trains.

    Attributes:
        label: the paper's name, used in run names and tables.
        alignments: terms over the aligned layers, added up and weighted by alpha.
        l2_sp: the distance of the weights from the source's, weighted by alpha.
        head_penalty: 1/2 ||head||^2, weighted by the paper's gamma (the config's ``beta``).
        trains_backbone: False freezes everything but the head.
        weight_decay: used where the config names none.
    """

    label: str
    alignments: tuple[str, ...] = ()
    l2_sp: bool = False
    head_penalty: bool = True
    trains_backbone: bool = True
    weight_decay: float = 0.0

    @property
    def needs_alpha(self) -> bool:
        return bool(self.alignments) or self.l2_sp

    @property
    def needs_source(self) -> bool:
        """Whether a frozen source network runs beside the target."""
        return bool(self.alignments)


METHODS: dict[str, Method] = {
    "ast": Method("AST", alignments=("spatial",)),
    "act": Method("ACT", alignments=("channel",)),
    "one_stage": Method("one-stage", alignments=("spatial", "channel")),
    "dfa": Method("DFA", alignments=("feature_map",)),
    "delta": Method("DELTA", alignments=("delta",)),
    "l2": Method("L2", head_penalty=False, weight_decay=1e-4),
    "l2_sp": Method("L2-SP", l2_sp=True),
    "l2_fe": Method("L2-FE", head_penalty=False, trains_backbone=False, weight_decay=1e-4),
}
