"""METHODS: the methods that the paper compares, one row each. RECIPES: methods that consist of several stages.

This file does not import torch, so that a config can be checked quickly. A row names the
classes that compute its terms, as ``file.Class`` in this folder. docs/methods.md has
the equations and papers, docs/your-own-method.md how to add one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afa.fields import setting


@dataclass(frozen=True)
class Method:
    """The terms that a method adds to the classification loss, and the parameters that it trains.

    Attributes:
        label: the paper's name, used in run names and tables.
        terms: ``file.Class`` of each term in afa/method; they are summed and weighted by alpha.
        reads_maps: False if no term reads aligned maps; then a network without known layers can be used.
        head_penalty: adds 1/2 ||head||^2, weighted by the paper's gamma (the config's ``beta``).
        trains_backbone: False freezes all parameters but the head's.
        fixed_weights: which weights, one tensor per layer, are computed before the stage starts:
            ``channel_weights`` or ``mean_attention``; empty: none.
        defaults: config key -> value, used if the config does not set the key.
        settings: dataclass of the method's own settings, whose fields are created with ``setting``;
            they are configured as ``<method>.<key>``.
    """

    label: str
    terms: tuple[str, ...] = ()
    reads_maps: bool = True
    head_penalty: bool = True
    trains_backbone: bool = True
    fixed_weights: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    settings: type | None = None


@dataclass(frozen=True)
class LwFSettings:
    """LwF's own settings."""

    temperature: float = setting(
        "temperature of the softmax over the old classes, for the outputs of the source and of the target",
        default=2.0,
        low=0.01,
    )


@dataclass(frozen=True)
class BSSSettings:
    """BSS's own settings."""

    singular_values: int = setting("number of singular values of the features to shrink", default=1, low=1)


_L2_DECAY = {"weight_decay": 1e-4}

METHODS: dict[str, Method] = {
    "ast": Method("AST", terms=("aligned_maps.Spatial",)),
    "act": Method("ACT", terms=("aligned_maps.Channel",)),
    "one_stage": Method("one-stage", terms=("aligned_maps.Spatial", "aligned_maps.Channel")),
    "ast_fixed": Method("AST-fixed", terms=("aligned_maps.FixedSpatial",), fixed_weights="mean_attention"),
    "act_fixed": Method("ACT-fixed", terms=("aligned_maps.FixedChannel",), fixed_weights="channel_weights"),
    "dfa": Method("DFA", terms=("aligned_maps.FeatureMap",)),
    "delta": Method("DELTA", terms=("aligned_maps.Delta",), fixed_weights="channel_weights"),
    "lwf": Method("LwF", terms=("old_head.Distillation",), reads_maps=False, settings=LwFSettings),
    "soft_ft": Method("Soft-FT", terms=("old_head.SoftRemoval",), reads_maps=False),
    "l2_sp": Method("L2-SP", terms=("penalties.StartingPoint",), reads_maps=False),
    "bss": Method(
        "BSS",
        terms=("penalties.SpectralShrinkage",),
        reads_maps=False,
        head_penalty=False,
        defaults={**_L2_DECAY, "alpha": 1e-3},
        settings=BSSSettings,
    ),
    "l2": Method("L2", reads_maps=False, head_penalty=False, defaults=_L2_DECAY),
    "l2_fe": Method(
        "L2-FE",
        reads_maps=False,
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
    "lp_ft": ({"reg_type": "l2_fe"}, {"reg_type": "l2"}),
}
"""``reg_type`` outside the stages' blocks -> the keys that it adds to each stage's block."""
