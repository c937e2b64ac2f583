"""METHODS: every method of the paper's comparison as one row of plain data; RECIPES: the runs of several stages.

This file imports no torch, so that a config can be checked at once. A row names the
classes that compute its terms, as ``file.Class`` in this folder. docs/methods.md has
the equations and papers, docs/your-own-method.md how to add one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """What a method adds to the classification loss, and what it trains.

    Attributes:
        label: the paper's name, used in run names and tables.
        terms: ``file.Class`` of each term in afa/method; added up and weighted by alpha.
        head_penalty: 1/2 ||head||^2, weighted by the paper's gamma (the config's ``beta``).
        trains_backbone: False freezes everything but the head.
        fixed_weights: a key of ``training.fixed_weights.MAKERS``: what is computed before
            the stage begins, one tensor a layer; empty: nothing.
        defaults: config key -> value, used where the config does not give the key.
    """

    label: str
    terms: tuple[str, ...] = ()
    head_penalty: bool = True
    trains_backbone: bool = True
    fixed_weights: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_alpha(self) -> bool:
        return bool(self.terms)


_L2_DECAY = {"weight_decay": 1e-4}

METHODS: dict[str, Method] = {
    "ast": Method("AST", terms=("aligned_maps.Spatial",)),
    "act": Method("ACT", terms=("aligned_maps.Channel",)),
    "one_stage": Method("one-stage", terms=("aligned_maps.Spatial", "aligned_maps.Channel")),
    "ast_fixed": Method("AST-fixed", terms=("aligned_maps.FixedSpatial",), fixed_weights="mean_attention"),
    "act_fixed": Method("ACT-fixed", terms=("aligned_maps.FixedChannel",), fixed_weights="channel_weights"),
    "dfa": Method("DFA", terms=("aligned_maps.FeatureMap",)),
    "delta": Method("DELTA", terms=("aligned_maps.Delta",), fixed_weights="channel_weights"),
    "lwf": Method("LwF", terms=("old_head.Distillation",)),
    "soft_ft": Method("Soft-FT", terms=("old_head.SoftRemoval",)),
    "l2_sp": Method("L2-SP", terms=("penalties.StartingPoint",)),
    "l2": Method("L2", head_penalty=False, defaults=_L2_DECAY),
    "l2_fe": Method(
        "L2-FE",
        head_penalty=False,
        trains_backbone=False,
        defaults={**_L2_DECAY, "epochs": 10, "lr_scheduler": "explr"},
    ),
}

RECIPES: dict[str, tuple[Mapping[str, Any], ...]] = {
    "afa": ({"reg_type": "ast"}, {"reg_type": "act"}),
    "act_then_ast": ({"reg_type": "act"}, {"reg_type": "ast"}),
    "afa_fixed": ({"reg_type": "ast_fixed"}, {"reg_type": "act_fixed"}),
    "afa_source_kept": ({"reg_type": "ast"}, {"reg_type": "act", "keep_source": True}),
}
"""``reg_type`` outside the stages' blocks -> what each stage's block holds beside what the config puts there."""
