"""Plain values of a config file -> frozen ``Settings``, or every problem found."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from afa.config.settings import (
    EXCLUSIVE,
    FIELDS,
    RELEASED_METHODS,
    RENAMED,
    STAGE_FIELDS,
    STAGE_NAMES,
    BackboneSettings,
    ComputeSettings,
    DataSettings,
    RunSettings,
    Settings,
    StageSettings,
    field_of,
)
from afa.config.values import Problem, Problems, check_paths, check_required, check_values, nearest
from afa.fields import setting_fields
from afa.method.catalogue import METHODS, RECIPES
from afa.networks.backbones import BACKBONES, layers_of, row_of, torchvision_names

_STAGE_PREFIXES = tuple(f"{name}." for name in STAGE_NAMES)
_BLOCKS = {*STAGE_NAMES, *(key.partition(".")[0] for key in FIELDS if "." in key)}


_OTHER_NAMES = {
    "learning_rate": "lr",
    "device": "gpu_id",
    "gpu": "gpu_id",
    "model": "base_model_name",
    "backbone": "base_model_name",
    "dataset": "target_dataset",
    "data_dir": "target_data_dir",
    "method": "reg_type",
    "optimizer_momentum": "momentum",
    "imgsz": "image_size",
    "workers": "num_workers",
    "output": "outpath",
    "output_dir": "outpath",
    "name": "exp_id",
    "scheduler": "lr_scheduler",
    "loss": "loss_type",
    "checkpoint": "pre_trained_path",
    "weights": "source_weights",
}
"""Name of a key in other programs -> its name here."""


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with dotted keys, for example ``first_stage.lr``, instead of blocks; an empty block stays."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in _BLOCKS and isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def build_settings(
    values: Mapping[str, Any], problems: Problems, *, forced: Collection[str] = (), check_files: bool = False
) -> Settings | None:
    """Check values and freeze them; None if there are problems.

    Args:
        values: config key -> value in the order in which they were set; keys in a block are nested or dotted. A
            key in the block of a stage has precedence over the same key outside, which is the default of every stage.
        problems: each problem is added to it.
        forced: dotted keys from the command line; they have precedence over all others, stage blocks included.
        check_files: whether the files and folders that the settings name must exist.
    """
    flat: dict[str, Any] = {}
    for key, value in flatten(values).items():
        block, _, inner = key.partition(".")
        if block in STAGE_NAMES and inner in forced and key not in forced:
            flat.setdefault(block, {})
            continue
        flat.pop(RENAMED.get(key, key), None)  # of a key and its released name the later one applies
        flat[RENAMED.get(key, key)] = value
    if (name := flat.get("exp_id")) and (Path(str(name)).is_absolute() or ".." in Path(str(name)).parts):
        problems.add("exp_id", f"'{name}' is outside outpath; write a name, and the folder in outpath=<folder>")
    flat, checked = _expand_recipe(flat, problems), dict[str, Any]()
    for prefix in ("", *_STAGE_PREFIXES):
        checked |= _check_scope(flat, prefix, problems)
    check_required(flat, {key: f for key, f in FIELDS.items() if key not in STAGE_FIELDS}, problems)
    blocks = [prefix for prefix in _STAGE_PREFIXES if any(f"{key}.".startswith(prefix) for key in flat)]
    if blocks == [_STAGE_PREFIXES[1]]:
        problems.add(STAGE_NAMES[1], f"there is no {STAGE_NAMES[0]} {{ ... }} before it")
    if flat.get("mode") == "eval":
        winners = {}
        if not flat.get("pre_trained_path"):
            problems.add("pre_trained_path", "missing: the checkpoint to evaluate")
    else:
        winners = {prefix: _winning_keys(flat, prefix, forced) for prefix in blocks or [""]}
    stages = [_stage_values(prefix, keys, checked, problems) for prefix, keys in winners.items()]
    _check_backbone(checked, [stage.get("reg_type") for stage in stages], problems)
    if check_files:
        problems.found += check_dataset(checked.get("target_data_dir"), checked.get("target_dataset"))
        used = {*FIELDS.keys() - STAGE_FIELDS.keys(), *(key for keys in winners.values() for key in keys.values())}
        paths = {key: value for key, value in checked.items() if key in used}
        check_paths(paths, field_of, checked.get("outpath", "runs"), problems)
    if problems.found:
        return None
    if not checked.get("image_size"):
        checked["image_size"] = row_of(checked["base_model_name"]).image_size
    return Settings(
        data=_freeze(DataSettings, checked),
        backbone=_freeze(BackboneSettings, checked),
        stages=tuple(_freeze(StageSettings, stage) for stage in stages),
        run=_freeze(RunSettings, checked),
        compute=_freeze(ComputeSettings, checked),
    )


def check_dataset(root: str | None, dataset: str | None) -> list[Problem]:
    """A problem if the folder of the data sets does not exist or lacks the data set; None: not known, not checked."""
    if root is None:
        return []
    if not Path(root).is_dir():
        expected = "it must contain <target_dataset>/train/<class>/*.jpg and /test/"
        return [Problem("target_data_dir", f"no such folder: {root}; {expected}")]
    if dataset is None or (Path(root) / dataset).is_dir():
        return []
    known = sorted(path.name for path in Path(root).iterdir() if path.is_dir())
    listed = ", ".join(known[:10]) or "no folder"
    return [Problem("target_dataset", f"no folder {dataset} in {root}{nearest(dataset, known)} (found: {listed})")]


def _expand_recipe(flat: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """Replace the name of a recipe in ``flat`` by its stages."""
    recipe = flat.get("reg_type")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        return flat
    expanded = {key: value for key, value in flat.items() if key != "reg_type"}
    for prefix, stage in zip(_STAGE_PREFIXES, RECIPES[recipe], strict=True):
        for key, value in stage.items():
            old = expanded.get(prefix + key, value)
            if RELEASED_METHODS.get(str(old), old) != value:
                problems.add(prefix + key, f"reg_type = {recipe} sets it to {str(value).lower()}; remove it")
            expanded[prefix + key] = value
    return expanded


def _check_scope(flat: Mapping[str, Any], prefix: str, problems: Problems) -> dict[str, Any]:
    """Dotted key -> value in its field's type; of the keys outside the stage blocks, or of those in one."""
    own = {
        key.removeprefix(prefix): value
        for key, value in flat.items()
        if prefix == next((stage for stage in _STAGE_PREFIXES if key.startswith(stage)), "")
    }
    known = STAGE_FIELDS if prefix else FIELDS

    def unknown(key: str) -> str:
        if key in _BLOCKS:
            return f"expected a block {{ ... }}, got {own[key]!r}"
        if key in FIELDS:
            return "is not a setting of a stage; set it outside the stage blocks"
        if key in _OTHER_NAMES:
            return f"unknown key; did you mean '{_OTHER_NAMES[key]}'?"
        return f"unknown key{nearest(key, [*known, *(() if prefix else (*STAGE_NAMES, *RENAMED))])}"

    own = {key: value for key, value in own.items() if key not in _BLOCKS or value != {}}
    correct = check_values(own, known, problems.at(prefix), unknown=unknown)
    return {prefix + key: value for key, value in correct.items()}


def _winning_keys(flat: Mapping[str, Any], prefix: str, forced: Collection[str]) -> dict[str, str]:
    """Key of a stage -> the dotted key that sets it; without those that an exclusive key replaces."""
    candidates = [key for key in flat if key.removeprefix(prefix) in STAGE_FIELDS]
    candidates.sort(key=lambda key: (key in forced, bool(prefix) and key.startswith(prefix)))  # stable: later wins
    winners: dict[str, str] = {}
    for key in candidates:
        winners.pop(key.removeprefix(prefix), None)
        winners[key.removeprefix(prefix)] = key
    names = list(winners)
    for first, second in EXCLUSIVE:
        if first in winners and second in winners and names.index(first) > names.index(second):
            del winners[second]
    return winners


def _stage_values(
    prefix: str, winners: Mapping[str, str], checked: Mapping[str, Any], problems: Problems
) -> dict[str, Any]:
    """Values of one stage, with the defaults of its method."""
    values = {key: checked[winner] for key, winner in winners.items() if winner in checked}
    problems = problems.at(prefix)
    name = values.get("reg_type")
    if name is None:
        if "reg_type" not in winners:
            known = [*METHODS, *(() if prefix else RECIPES)]
            problems.add("reg_type", f"missing: the method, one of {', '.join(known)}")
        return values
    if name in RECIPES:
        problems.add("reg_type", f"{name} consists of two stages; set it outside the stage blocks")
        return values
    method = METHODS[name]
    if not method.terms:
        values.pop("search.alpha", None)
    elif not ({"alpha"} & {*winners, *method.defaults} or values.get("search.alpha")):
        usual = "published for ResNet-101: 0.1 for AST, 0.15 for ACT"
        if values.get("alignment_scale") == "relative":
            usual = "1 to 100 with alignment_scale = relative"
        problems.add("alpha", f"missing: {method.label} needs it ({usual})")
    check_required(winners, {key: f for key, f in STAGE_FIELDS.items() if key.startswith(f"{name}.")}, problems)
    replaced = {second for first, second in EXCLUSIVE if first in winners}
    return {**{key: value for key, value in method.defaults.items() if key not in replaced}, **values}


def _check_backbone(checked: Mapping[str, Any], methods: Collection[str | None], problems: Problems) -> None:
    name, layers = checked.get("base_model_name"), checked.get("aligned_layers", ())
    reads_maps = any(method not in METHODS or METHODS[method].reads_maps for method in methods)
    names = torchvision_names()
    if name is not None and names and name not in names:
        problems.add("base_model_name", f"torchvision has no classification network '{name}'{nearest(name, names)}")
    elif name is not None and name not in BACKBONES and reads_maps and not layers:
        known = f"the paper's layers are known for {', '.join(BACKBONES)}"
        problems.add("aligned_layers", f"missing for {name}: set 4, or the names of modules ({known})")
    if name in BACKBONES and isinstance(layers, int):
        try:
            layers_of(name, layers)
        except ValueError as error:
            problems.add("aligned_layers", f"{name}: {error}; set names, or 4, 8 or 12 for a ResNet")
    if checked.get("base_task") == "places365":
        if name not in (None, "resnet50"):
            problems.add("base_task", "places365 weights exist for resnet50 only")
        elif not checked.get("source_weights"):
            needed = "places365 needs the file resnet50_places365.pth.tar (places2.csail.mit.edu)"
            problems.add("source_weights", f"missing: {needed}")


def _freeze(section: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    present = {f.name: values[prefix + key] for key, f in setting_fields(section).items() if prefix + key in values}
    if section is StageSettings and (own := METHODS[values["reg_type"]].settings):
        present["method_settings"] = _freeze(own, values, f"{values['reg_type']}.")
    return section(**present)
