"""Settings: one frozen dataclass a subject, every field typed, bounded and with its reason.

Each field carries its key in the config file. The released code's keys keep their
names and meaning there (SPEC section 4), also where they read oddly: its ``beta`` is
the paper's gamma, its ``gamma`` the learning-rate factor. This file is the only one
that knows them; the rest of the program uses the field names.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, NamedTuple, get_args, get_origin

from afa.method.catalogue import METHODS
from afa.networks.backbones import BACKBONES


class Problem(NamedTuple):
    """What is wrong with one key, for example ``first_stage.lr``, and what would be right."""

    key: str
    message: str


def setting(
    key: str,
    reason: str,
    *,
    default: Any = MISSING,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
    changes_result: bool = True,
) -> Any:
    """A field of the settings, under ``key`` in the config file.

    ``choices`` and ``aliases`` (released name -> ours) bound a string, ``low`` and
    ``high`` a number. A finished or unfinished run may go on with another value of a
    field that does not change its result.
    """
    metadata = {
        "key": key,
        "reason": reason,
        "low": low,
        "high": high,
        "choices": tuple(choices),
        "aliases": dict(aliases or {}),
        "changes_result": changes_result,
    }
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


RELEASED_METHODS = {
    "pixel_att_fea_map_learn": "ast",
    "channel_att_fea_map_learn": "act",
    "channel_pixel_att_fea_map_learn": "one_stage",
    "fea_map": "dfa",
    "att_fea_map": "delta",
    "l2sp": "l2_sp",
    "l2fe": "l2_fe",
}
RELEASED_LOSSES = {
    "CrossEntropyLoss": "cross_entropy",
    "loss_label_smoothing": "label_smoothing",
    "loss_kd_regularization": "kd_regularization",
}


@dataclass(frozen=True)
class DataSettings:
    """The images: ``<root>/<dataset>/{train,test}/<class>/*``."""

    dataset: str = setting("target_dataset", "folder of the target data set, under target_data_dir")
    root: str = setting("target_data_dir", "folder that holds the data sets", changes_result=False)
    augmentation: str = setting(
        "data_aug",
        "default: square resize, flip, random crop; improved: short side, flip, random crop, ten test crops",
        default="default",
        choices=("default", "improved"),
    )
    image_size: int = setting(
        "image_size", "side of the network's square input in pixels; 0: the backbone's own", default=0, low=0, high=2048
    )
    batch_size: int = setting("batch_size", "images a step", default=64, low=1)
    validation_fraction: float = setting(
        "validation_fraction",
        "part of the training images held out, a class at a time, to choose epochs and alpha on; 0: none",
        default=0.0,
        low=0.0,
        high=0.9,
    )
    bad_images: str = setting(
        "bad_images", "error: stop and name them; skip: go on without, counted", default="error", choices=("error", "skip")
    )
    cache: str = setting(
        "cache",
        "memory: decode and resize each image once, keep the pixels; none: at each use",
        default="memory",
        choices=("memory", "none"),
        changes_result=False,
    )
    num_workers: int = setting(
        "num_workers", "processes that decode images", default=4, low=0, high=256, changes_result=False
    )


@dataclass(frozen=True)
class BackboneSettings:
    """The network, and the source weights that it starts from."""

    name: str = setting("base_model_name", "torchvision's name of the network")
    task: str = setting(
        "base_task", "what the source was trained on", default="imagenet", choices=("imagenet", "places365")
    )
    source_weights: str = setting(
        "source_weights",
        "file of source weights; empty: torchvision's IMAGENET1K_V1 (released key: pretrain_path)",
        default="",
    )
    aligned_layers: tuple[str, ...] = setting(
        "aligned_layers", "module names whose outputs are compared; empty: the paper's", default=()
    )


@dataclass(frozen=True)
class StageSettings:
    """One stage of training. In a two-stage run each of these keys may stand in ``first_stage { }`` or ``second_stage { }``."""

    method: str = setting("reg_type", "method", choices=METHODS, aliases=RELEASED_METHODS)
    alpha: float = setting("alpha", "weight of the alignment, or of L2-SP", default=0.0, low=0.0)
    head_penalty: float = setting("beta", "weight of 1/2 ||head||^2, the paper's gamma", default=0.01, low=0.0)
    learning_rate: float = setting("lr", "one rate for backbone, head and attention", default=0.01, low=0.0)
    max_iter: int = setting("max_iter", "steps; turned into whole epochs", default=4500, low=1)
    schedule: str = setting(
        "lr_scheduler",
        "steplr: one drop at 0.67 of the epochs; coslr: cosine to 0",
        default="steplr",
        choices=("steplr", "coslr"),
    )
    decay_factor: float = setting("gamma", "steplr's factor", default=0.1, low=0.0, high=1.0)
    momentum: float = setting("momentum", "SGD's", default=0.9, low=0.0, high=1.0)
    weight_decay: float = setting(
        "weight_decay", "SGD's; where not given: 1e-4 for plain L2 and L2-FE, else 0", default=0.0, low=0.0
    )
    classification: str = setting(
        "loss_type",
        "classification loss",
        default="cross_entropy",
        choices=RELEASED_LOSSES.values(),
        aliases=RELEASED_LOSSES,
    )
    seed: int = setting("seed", "repeat k uses seed + k - 1", default=1, low=0, high=2**31)
    channel_weight_path: str = setting("channel_weight_path", "JSON of DELTA's channel weights, one list a layer", default="")


@dataclass(frozen=True)
class RunSettings:
    """What is done, on what, and where it is written."""

    mode: str = setting("mode", "train, or eval a checkpoint", default="train", choices=("train", "eval"))
    outpath: str = setting("outpath", "folder that holds the runs", default="runs", changes_result=False)
    exp_id: str = setting(
        "exp_id",
        "name of the run's folder; empty: <base_model_name>_<target_dataset>_<method>",
        default="",
        changes_result=False,
    )
    pre_trained_path: str = setting(
        "pre_trained_path",
        "checkpoint to start from or to evaluate: a file, a run's folder, or the name of a run under outpath",
        default="",
    )
    repeat: int = setting("repeat", "how many seeds, one after the other", default=1, low=1, high=1000)
    gpu_id: str = setting("gpu_id", "CUDA card; cpu: none", default="0", changes_result=False)
    print_freq: int = setting("print_freq", "steps between two lines of experiment.log", default=10, low=1, changes_result=False)
    overwrite: bool = setting(
        "overwrite", "start anew, in place of a run of the same name", default=False, changes_result=False
    )
    resume: bool = setting("resume", "go on with an unfinished run", default=True, changes_result=False)


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; ``stages`` in the order in which they are trained."""

    data: DataSettings
    backbone: BackboneSettings
    stages: tuple[StageSettings, ...]
    run: RunSettings

    @property
    def run_name(self) -> str:
        """Name of the run's folder under ``outpath``."""
        if self.run.exp_id:
            return self.run.exp_id
        labels = ["eval"] if self.run.mode == "eval" else [METHODS[stage.method].label for stage in self.stages]
        return "_".join([self.backbone.name, self.data.dataset, *labels])


SECTIONS: tuple[type, ...] = (DataSettings, BackboneSettings, StageSettings, RunSettings)
STAGE_NAMES = ("first_stage", "second_stage")
FIELDS: dict[str, tuple[type, Field]] = {
    f.metadata["key"]: (section, f) for section in SECTIONS for f in fields(section)
}
STAGE_KEYS = tuple(key for key, (section, _) in FIELDS.items() if section is StageSettings)
RENAMED = {"pretrain_path": "source_weights"}
"""Released key -> the key that says the same here."""

_EXAMPLES = {float: "a number, for example 0.01", int: "a whole number", str: "a string", bool: "true or false"}


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing where no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def build_settings(values: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
    """Check plain values, as they stand in a config file, and freeze them.

    Args:
        values: config key -> value; ``first_stage`` and ``second_stage`` hold mappings
            of stage keys. Stage keys outside them are the default of every stage.

    Returns:
        the settings, or None with every problem found.
    """
    values = {RENAMED.get(key, key): value for key, value in values.items()}
    problems: list[Problem] = []
    stage_values = {name: values.pop(name) for name in STAGE_NAMES if name in values}
    for name, inner in stage_values.items():
        if not isinstance(inner, Mapping):
            problems.append(Problem(name, f"expected a block of stage settings {{ ... }}, got {inner!r}"))
            stage_values[name] = {}
    if list(stage_values) == ["second_stage"]:
        problems.append(Problem("second_stage", "there is no first_stage { ... } before it"))

    checked = _check_keys(values, "", FIELDS, problems)
    stages_checked = [
        _check_keys(inner, f"{name}.", STAGE_KEYS, problems) for name, inner in stage_values.items()
    ]
    shared = {key: value for key, value in checked.items() if key in STAGE_KEYS}
    # A key given but wrong is in `values` and not in `checked`: it was named already, so it is not missing too.
    evaluates = values.get("mode") == "eval"
    for key, (section, f) in FIELDS.items():
        if section is not StageSettings and f.default is MISSING and key not in values:
            problems.append(Problem(key, f"missing: {f.metadata['reason']}"))
    stages = []
    if not evaluates:
        blocks: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
            (f"{name}.", stage_values[name], inner)
            for name, inner in zip(stage_values, stages_checked, strict=True)
        ] or [("", {}, {})]
        stages = [_build_stage(prefix, {**values, **raw}, {**shared, **inner}, problems) for prefix, raw, inner in blocks]
    problems += _check_backbone(checked)
    if problems:
        return None, problems
    if not checked.get("image_size"):
        backbone = BACKBONES.get(checked["base_model_name"])
        checked["image_size"] = backbone.image_size if backbone else 224
    return (
        Settings(
            data=_freeze(DataSettings, checked),
            backbone=_freeze(BackboneSettings, checked),
            stages=tuple(_freeze(StageSettings, stage) for stage in stages),
            run=_freeze(RunSettings, checked),
        ),
        [],
    )


def _freeze(section: type, checked: Mapping[str, Any]) -> Any:
    present = {f.name: checked[f.metadata["key"]] for f in fields(section) if f.metadata["key"] in checked}
    return section(**present)


def _check_keys(
    values: Mapping[str, Any], prefix: str, allowed: Iterable[str], problems: list[Problem]
) -> dict[str, Any]:
    """The values that are right, under their keys; what is wrong goes to ``problems``."""
    checked = {}
    known = [*allowed, *(() if prefix else (*STAGE_NAMES, *RENAMED))]
    for key, value in values.items():
        if key not in allowed:
            hint = " is no setting of a stage; put it outside" if key in FIELDS else f"unknown key{nearest(key, known)}"
            problems.append(Problem(prefix + key, hint.strip()))
            continue
        outcome = _check_value(FIELDS[key][1], value)
        if isinstance(outcome, Problem):
            problems.append(outcome._replace(key=prefix + key))
        else:
            checked[key] = outcome.value
    return checked


class _Checked(NamedTuple):
    value: Any


def _check_value(f: Field, value: Any) -> _Checked | Problem:
    """``value`` in the field's type and bounds, or what is wrong with it."""
    wanted: Any = f.type
    bounds = f.metadata
    if get_origin(wanted) is tuple:
        item = get_args(wanted)[0]
        if not isinstance(value, list | tuple) or not all(isinstance(entry, item) for entry in value):
            return Problem("", f'expected a list of strings, for example ["layer1", "layer2"], got {value!r}')
        return _Checked(tuple(value))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is str and isinstance(value, int) and not isinstance(value, bool) and f.name in ("gpu_id", "exp_id"):
        value = str(value)
    if type(value) is not wanted:
        return Problem("", f"expected {_EXAMPLES[wanted]}, got {_describe(value, wanted)}")
    if wanted in (int, float):
        if not (math.isfinite(value) and bounds["low"] <= value <= bounds["high"]):
            return Problem("", f"{value} is out of range: {_range(bounds['low'], bounds['high'])}")
    if bounds["choices"]:
        value = bounds["aliases"].get(value, value)
        if value not in bounds["choices"]:
            known = [*bounds["choices"], *bounds["aliases"]]
            return Problem("", f"unknown value '{value}'{nearest(value, known)} (known: {', '.join(known)})")
    return _Checked(value)


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at least {low:g} is right"
    return f"{low:g} to {high:g} is right"


def _describe(value: Any, wanted: type) -> str:
    """The value as the user wrote it, and where it can be guessed, what to write in its place."""
    if isinstance(value, str) and wanted in (int, float):
        try:
            number = wanted(float(value))
        except (ValueError, OverflowError):
            return f"the string '{value}'"
        same = math.isfinite(number) and number == float(value)
        return f"the string '{value}'" + (f"; write {number!r}" if same else "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a block { ... }"
    if isinstance(value, int | float) and wanted is str:
        return f'the number {value}; write "{value}" in quotes'
    return "nothing" if value is None else f"{type(value).__name__} {value}"


def _build_stage(
    prefix: str, given: Mapping[str, Any], checked: dict[str, Any], problems: list[Problem]
) -> dict[str, Any]:
    """A stage's values with what depends on its method filled in."""
    if "reg_type" not in checked:
        if "reg_type" not in given:
            problems.append(Problem(f"{prefix}reg_type", f"missing: the method, one of {', '.join(METHODS)}"))
        return checked
    method = METHODS[checked["reg_type"]]
    if method.needs_alpha and "alpha" not in given:
        problems.append(
            Problem(f"{prefix}alpha", f"missing: {method.label} needs it (published for ResNet-101: 0.1 for AST, 0.15 for ACT)")
        )
    if "delta" in method.alignments and not checked.get("channel_weight_path"):
        problems.append(Problem(f"{prefix}channel_weight_path", "missing: DELTA needs its channel weights, a JSON file"))
    return {"weight_decay": method.weight_decay, **checked}


def _check_backbone(checked: Mapping[str, Any]) -> list[Problem]:
    problems = []
    name = checked.get("base_model_name")
    if name is not None and name not in BACKBONES and not checked.get("aligned_layers"):
        known = ", ".join(BACKBONES)
        hint = f"unknown backbone '{name}'{nearest(name, BACKBONES)} (known: {known})"
        more = "any other torchvision classification network needs aligned_layers = [...]"
        problems.append(Problem("base_model_name", f"{hint}; {more}"))
    if checked.get("base_task") == "places365":
        if name not in (None, "resnet50"):
            problems.append(Problem("base_task", "places365 weights exist for resnet50 only"))
        elif not checked.get("source_weights"):
            problems.append(
                Problem("source_weights", "missing: places365 needs the file resnet50_places365.pth.tar (places2.csail.mit.edu)")
            )
    return problems


def differences(old: Settings, new: Settings) -> list[str]:
    """What changes a run's result between two settings, for example ``alpha: 0.1, now 0.2``."""
    pairs: list[tuple[str, Any, Any]] = [("", getattr(old, part), getattr(new, part)) for part in ("data", "backbone", "run")]
    pairs += [(f"{name}." if len(new.stages) > 1 else "", *pair) for name, *pair in zip(STAGE_NAMES, old.stages, new.stages, strict=False)]
    lines = [
        f"{prefix}{f.metadata['key']}: {getattr(before, f.name)}, now {getattr(after, f.name)}"
        for prefix, before, after in pairs
        for f in fields(before)
        if f.metadata["changes_result"] and getattr(before, f.name) != getattr(after, f.name)
    ]
    if len(old.stages) != len(new.stages):
        lines.append(f"stages: {len(old.stages)}, now {len(new.stages)}")
    return lines
