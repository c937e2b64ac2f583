"""The strict schema: plain values, as they stand in a config file, to frozen settings, or every problem found."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from afa.config.settings import (
    FIELDS,
    RELEASED_METHODS,
    RENAMED,
    SEARCH,
    STAGE_KEYS,
    STAGE_NAMES,
    BackboneSettings,
    ComputeSettings,
    DataSettings,
    RunSettings,
    Settings,
    StageSettings,
)
from afa.config.values import Problem, check_values, missing_values, nearest
from afa.method.catalogue import METHODS, RECIPES
from afa.networks.backbones import BACKBONES, layers_of, row_of


def build_settings(
    values: Mapping[str, Any], check_files: Callable[[Mapping[str, Any]], list[Problem]] = lambda checked: []
) -> tuple[Settings | None, list[Problem]]:
    """Check plain values, as they stand in a config file, and freeze them.

    Args:
        values: config key -> value; ``first_stage`` and ``second_stage`` hold mappings
            of stage keys. Stage keys outside them are the default of every stage; a recipe
            there stands for what it puts into them.
        check_files: further problems of the values that are right by themselves.

    Returns:
        the settings, or None with every problem found.
    """
    values = {RENAMED.get(key, key): value for key, value in values.items()}
    problems: list[Problem] = []
    values = _expand_recipe(values, problems)
    blocks = _stage_blocks(values, problems)
    flat = _open_block(SEARCH, {key: value for key, value in values.items() if key not in STAGE_NAMES}, "", problems)
    checked = _check_keys(flat, "", FIELDS, problems)
    # A key that is given but wrong is in `flat` and not in `checked`; it has been named already.
    problems += missing_values(flat, {key: f for key, (section, f) in FIELDS.items() if section is not StageSettings})
    stages = []
    for prefix, block in blocks.items():
        own = _check_keys(block, prefix, STAGE_KEYS, problems)
        shared = {key: value for key, value in checked.items() if key in STAGE_KEYS}
        stages.append(_complete_stage(prefix, {**flat, **block}, {**shared, **own}, problems))
    problems += _check_backbone(checked)
    if checked.get("mode") == "eval" and not flat.get("pre_trained_path"):
        problems.append(Problem("pre_trained_path", "missing: the checkpoint to evaluate"))
    problems += check_files(checked)
    if problems:
        return None, problems
    if not checked.get("image_size"):
        checked["image_size"] = row_of(checked["base_model_name"]).image_size
    return Settings(
        data=_freeze(DataSettings, checked),
        backbone=_freeze(BackboneSettings, checked),
        stages=tuple(_freeze(StageSettings, stage) for stage in stages),
        run=_freeze(RunSettings, checked),
        compute=_freeze(ComputeSettings, checked),
    ), []


def _expand_recipe(values: Mapping[str, Any], problems: list[Problem]) -> Mapping[str, Any]:
    """``values`` with the stages that a recipe's name stands for in the name's place."""
    name = values.get("reg_type")
    if not isinstance(name, str) or name not in RECIPES:
        return values
    expanded = {key: value for key, value in values.items() if key != "reg_type"}
    for stage, own in zip(STAGE_NAMES, RECIPES[name], strict=True):
        block = values.get(stage, {})
        if not isinstance(block, Mapping):
            continue
        for key in own:
            if key in block and RELEASED_METHODS.get(str(block[key]), block[key]) != own[key]:
                problems.append(Problem(f"{stage}.{key}", f"reg_type = {name} makes it {own[key]}; leave it out"))
        expanded[stage] = {**block, **own}
    return expanded


def _stage_blocks(values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Mapping[str, Any]]:
    """Prefix of its keys in messages -> what each stage's block holds; none for an evaluation."""
    blocks = {}
    for name in (name for name in STAGE_NAMES if name in values):
        block = values[name]
        if not isinstance(block, Mapping):
            problems.append(Problem(name, f"expected a block of stage settings {{ ... }}, got {block!r}"))
            block = {}
        blocks[f"{name}."] = _open_block(SEARCH, block, f"{name}.", problems)
    if list(blocks) == [f"{STAGE_NAMES[1]}."]:
        problems.append(Problem(STAGE_NAMES[1], f"there is no {STAGE_NAMES[0]} {{ ... }} before it"))
    if values.get("mode") == "eval":
        return {}
    return blocks or {"": {}}


def _open_block(name: str, values: Mapping[str, Any], prefix: str, problems: list[Problem]) -> Mapping[str, Any]:
    """``values`` with ``name.key`` in the place of the block ``name { key }``."""
    if name not in values:
        return values
    block = values[name]
    if not isinstance(block, Mapping):
        problems.append(Problem(prefix + name, f"expected a block {{ ... }}, got {block!r}"))
        block = {}
    rest = {key: value for key, value in values.items() if key != name}
    return {**rest, **{f"{name}.{key}": value for key, value in block.items()}}


def _freeze(section: type, checked: Mapping[str, Any]) -> Any:
    present = {f.name: checked[f.metadata["key"]] for f in fields(section) if f.metadata["key"] in checked}
    return section(**present)


def _check_keys(
    values: Mapping[str, Any], prefix: str, allowed: Iterable[str], problems: list[Problem]
) -> dict[str, Any]:
    """The values that are right, under their keys; what is wrong goes to ``problems``."""
    names = [*allowed, *(() if prefix else (*STAGE_NAMES, *RENAMED))]

    def unknown(key: str) -> str:
        return "is no setting of a stage; put it outside" if key in FIELDS else f"unknown key{nearest(key, names)}"

    checked, found = check_values(values, {key: FIELDS[key][1] for key in allowed}, prefix, unknown=unknown)
    problems += found
    return checked


def _complete_stage(
    prefix: str, given: Mapping[str, Any], checked: dict[str, Any], problems: list[Problem]
) -> dict[str, Any]:
    """A stage's values with what depends on its method filled in."""
    if "reg_type" not in checked:
        if "reg_type" not in given:
            known = ", ".join([*METHODS, *([] if prefix else RECIPES)])
            problems.append(Problem(f"{prefix}reg_type", f"missing: the method, one of {known}"))
        return checked
    if checked["reg_type"] in RECIPES:
        problems.append(Problem(f"{prefix}reg_type", f"{checked['reg_type']} has stages of its own; put it outside"))
        return checked
    method = METHODS[checked["reg_type"]]
    if method.needs_alpha and "alpha" not in given and not checked.get("search.alpha"):
        problems.append(
            Problem(
                f"{prefix}alpha",
                f"missing: {method.label} needs it (published for ResNet-101: 0.1 for AST, 0.15 for ACT)",
            )
        )
    if not method.needs_alpha:
        checked.pop("search.alpha", None)
    defaults = {key: value for key, value in method.defaults.items() if key != "epochs" or "max_iter" not in checked}
    return {**defaults, **checked}


def _check_backbone(checked: Mapping[str, Any]) -> list[Problem]:
    problems = []
    name = checked.get("base_model_name")
    if name is not None and name not in BACKBONES and not isinstance(checked.get("aligned_layers") or 0, tuple):
        known = ", ".join(BACKBONES)
        hint = f"unknown backbone '{name}'{nearest(name, BACKBONES)} (known: {known})"
        more = "any other torchvision classification network needs aligned_layers = [...]"
        problems.append(Problem("base_model_name", f"{hint}; {more}"))
    if name in BACKBONES and isinstance(checked.get("aligned_layers"), int):
        try:
            layers_of(name, checked["aligned_layers"])
        except ValueError as error:
            problems.append(Problem("aligned_layers", f"{name}: {error}; give names, or 4, 8 or 12 for a ResNet"))
    if checked.get("base_task") == "places365":
        if name not in (None, "resnet50"):
            problems.append(Problem("base_task", "places365 weights exist for resnet50 only"))
        elif not checked.get("source_weights"):
            problems.append(
                Problem(
                    "source_weights",
                    "missing: places365 needs the file resnet50_places365.pth.tar (places2.csail.mit.edu)",
                )
            )
    return problems
