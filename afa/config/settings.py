"""Settings: one frozen dataclass per subject; every field has a type, bounds and a description.

Each field carries its key in the config file. Keys of the released code keep their names and meaning, also where these
are confusing: its ``beta`` is the paper's gamma, its ``gamma`` the factor of the learning rate. Only this file knows
them; the rest of the program uses the field names.
"""

from collections.abc import Sequence
from dataclasses import Field, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from afa.fields import setting, setting_fields
from afa.method.catalogue import METHODS, RECIPES

RELEASED_METHODS = {
    "pixel_att_fea_map_learn": "ast",
    "channel_att_fea_map_learn": "act",
    "channel_pixel_att_fea_map_learn": "one_stage",
    "pixel_att_fea_map_without_params": "ast_fixed",
    "channel_att_fea_map_without_params": "act_fixed",
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
    """The images: ``<target_data_dir>/<target_dataset>/{train,test}/<class>/*``."""

    dataset: str = setting("folder of the target data set in target_data_dir", key="target_dataset")
    root: str = setting(
        "folder that contains the data sets", key="target_data_dir", names="folder", changes_result=False
    )
    augmentation: str = setting(
        "default: resize to a square, random crop, flip; improved: resize the short side, random crop, flip, "
        "ten-crop test",
        key="data_aug",
        default="default",
        choices=("default", "improved"),
    )
    image_size: int = setting(
        "side of the square network input in pixels; 0: the network's own", default=0, low=0, high=2048
    )
    batch_size: int = setting("images per training step", default=64, low=1, high=100_000)
    validation_fraction: float = setting(
        "fraction of training images held out to select epoch and alpha; 0: none", default=0.0, low=0.0, high=0.9
    )
    validation_folder: str = setting(
        "folder next to train with held-out images, if validation_fraction is 0; empty: val, valid or validation if it "
        "exists",
        default="",
        pattern=r"(?!\.)[^/\\]*",
    )
    background: str = setting(
        "colour behind transparent pixels: black, white or #rrggbb; empty: ignore transparency, as torchvision does",
        default="",
        pattern=r"(black|white|#[0-9a-fA-F]{6})?",
    )
    grey_range: str = setting(
        "<low>..<high>: levels of 16-bit grey images that become black and white",
        default="0..65535",
        pattern=r"-?\d{1,9}\.\.-?\d{1,9}",
    )
    bad_images: str = setting(
        "error: stop and list bad images; skip: ignore them", default="error", choices=("error", "skip")
    )
    cache: str = setting(
        "where decoded and resized images are kept: memory; disk, shared by all runs; none: decode at each use",
        default="memory",
        choices=("memory", "disk", "none"),
        changes_result=False,
    )
    cache_dir: str = setting(
        "folder of cache = disk; safe to delete", default="~/.cache/afa/images", names="output", changes_result=False
    )
    num_workers: int = setting("processes that decode images", default=4, low=0, high=256, changes_result=False)


@dataclass(frozen=True)
class BackboneSettings:
    """The network and its source weights."""

    name: str = setting("torchvision's name of the network", key="base_model_name")
    task: str = setting(
        "data set that the source weights were trained on",
        key="base_task",
        default="imagenet",
        choices=("imagenet", "places365"),
    )
    source_weights: str = setting(
        "file; empty: torchvision's IMAGENET1K_V1; old key: pretrain_path", default="", names="file"
    )
    aligned_layers: tuple[str, ...] | int = setting(
        "names of the modules whose outputs are aligned; 4, 8 or 12: that many, evenly spaced; empty: the paper's four",
        default=(),
        low=4,
        high=12,
        example="[features.9.conv.2, features.17.conv.2]",
    )


@dataclass(frozen=True)
class StageSettings:
    """One training stage; with two stages its keys may be set in ``first_stage { }`` and ``second_stage { }``."""

    method: str = setting(
        "method; outside the stage blocks also a recipe of two stages",
        key="reg_type",
        choices=(*METHODS, *RECIPES),
        aliases=RELEASED_METHODS,
    )
    alpha: float = setting("weight of the method's terms in the loss", default=0.0, low=0.0)
    alignment_scale: str = setting(
        "how maps are compared: released: as published, alpha depends on network and image size; relative: "
        "standardised, with an alpha of 1 to 100",
        default="released",
        choices=("released", "relative"),
    )
    search_alpha: tuple[float, ...] = setting(
        "values of alpha to try on held-out images, each with every value of search.lr; training uses the best "
        "combination",
        key="search.alpha",
        default=(),
        low=0.0,
        example="[0.01, 0.03]",
    )
    head_penalty: float = setting(
        "weight of half the squared L2 norm of the head; the paper's gamma", key="beta", default=0.01, low=0.0
    )
    learning_rate: float = setting("learning rate of backbone, head and attention", key="lr", default=0.01, low=0.0)
    search_lr: tuple[float, ...] = setting(
        "learning rates to try, see search.alpha", key="search.lr", default=(), low=0.0, example="[0.003, 0.01]"
    )
    max_iter: int = setting("number of steps, rounded to complete epochs", default=4500, low=1)
    epochs: int = setting(
        "number of epochs; 0: use max_iter; default for L2-FE if neither is set: 10", default=0, low=0, high=1_000_000
    )
    schedule: str = setting(
        "steplr: multiplied once by gamma, at 0.67 of the epochs; coslr: cosine to 0; explr: exponential, by gamma in "
        "6 epochs; "
        "default for L2-FE: explr",
        key="lr_scheduler",
        default="steplr",
        choices=("steplr", "coslr", "explr"),
    )
    decay_factor: float = setting("factor of steplr and explr", key="gamma", default=0.1, low=0.0, high=1.0)
    momentum: float = setting("momentum of SGD", default=0.9, low=0.0, high=1.0)
    weight_decay: float = setting("weight decay of SGD; default for L2 and L2-FE: 1e-4", default=0.0, low=0.0)
    classification: str = setting(
        "classification loss: cross_entropy, label_smoothing or kd_regularization",
        key="loss_type",
        default="cross_entropy",
        choices=RELEASED_LOSSES.values(),
        aliases=RELEASED_LOSSES,
    )
    class_weights: str = setting(
        "weights of the images in the classification loss; none: equal; balanced: inversely proportional to the size "
        "of the class",
        default="none",
        choices=("none", "balanced"),
    )
    grad_clip: float = setting("maximum L2 norm of the gradient; 0: no clipping", default=0.0, low=0.0)
    seed: int = setting("random seed; repeat k uses seed + k - 1", default=1, low=0, high=2**31)
    channel_weight_path: str = setting(
        "JSON file with the channel weights of DELTA and act_fixed, one list per layer; empty: compute them first",
        default="",
        names="file",
    )
    attention_path: str = setting(
        "AST run whose mean attention ast_fixed uses; empty: train an AST first", default="", names="checkpoint"
    )
    keep_source: bool = setting(
        "true: the source stays the pre-trained network in every stage (Table 10)", default=False
    )
    stage_start: str = setting(
        "checkpoint of stage one, or of the run in pre_trained_path, that a stage starts from: of the best or of the "
        "last epoch",
        default="best",
        choices=("best", "last"),
    )
    method_settings: Any = None
    """The method's own settings, ``<method>.<key>``: an instance of ``METHODS[method].settings``."""

    def __post_init__(self) -> None:
        own = METHODS[self.method].settings
        if not isinstance(self.method_settings, own or type(None)):
            object.__setattr__(self, "method_settings", own and own())

    @property
    def is_searched(self) -> bool:
        """Whether the stage has values to try."""
        return bool(self.search_alpha or self.search_lr)

    @property
    def trials(self) -> "tuple[StageSettings, ...]":
        """The stage with each combination of the values to try; without such values, only the stage itself."""
        return tuple(
            replace(self, alpha=alpha, learning_rate=rate, search_alpha=(), search_lr=())
            for alpha, rate in product(self.search_alpha or (self.alpha,), self.search_lr or (self.learning_rate,))
        )

    @property
    def label(self) -> str:
        """The stage's name in run names and tables."""
        return METHODS[self.method].label + ("-source-kept" if self.keep_source else "")


@dataclass(frozen=True)
class ComputeSettings:
    """How a training step is computed: affects speed and rounding, not the definition of the result."""

    channels_last: bool = setting(
        "true: a third faster on a CPU; false: batch statistics exact to 3e-7, not 2e-5", default=True
    )
    precision: str = setting(
        "precision of the networks in a training step; fp32: as published; tf32, bf16: CUDA capability 8.0 or higher, "
        "bf16 also CPUs with avx512_bf16 or amx_bf16; fp16: CUDA",
        default="fp32",
        choices=("fp32", "tf32", "bf16", "fp16"),
    )
    compile: bool = setting("true: use torch.compile for the target network; takes minutes at the start", default=False)


@dataclass(frozen=True)
class RunSettings:
    """The command that is run, and the folder of its results."""

    mode: str = setting("train, or eval: evaluate a checkpoint", default="train", choices=("train", "eval"))
    outpath: str = setting("folder that contains the runs", default="runs", names="output", changes_result=False)
    exp_id: str = setting(
        "run's name; empty: <base_model_name>_<target_dataset>_<method>", default="", changes_result=False
    )
    pre_trained_path: str = setting(
        "checkpoint to start from or to evaluate: a file, a run's folder, or the name of a run in outpath",
        default="",
        names="checkpoint",
    )
    repeat: int = setting("number of trainings with different seeds", default=1, low=1, high=1000)
    search_repeat: int = setting(
        "number of seeds for each combination of search.alpha and search.lr",
        key="search.repeat",
        default=1,
        low=1,
        high=1000,
    )
    jobs: str = setting(
        "number of runs at a time, of repeats, a search or a grid; auto: as many as cores and memory, or GPUs, allow",
        default="1",
        pattern=r"auto|[1-9]\d{0,2}",
        changes_result=False,
    )
    gpu_id: str = setting("index of the CUDA GPU, or cpu", default="0", changes_result=False)
    sync_bn: bool = setting("torchrun on GPUs: batch-norm over the images of all processes", default=False)
    print_freq: int = setting("steps between two lines of experiment.log", default=10, low=1, changes_result=False)
    quiet: bool = setting("print only errors; experiment.log contains everything", default=False, changes_result=False)
    test_every: int = setting("epochs between two evaluations; the last epoch is always evaluated", default=1, low=1)
    checkpoint_every: str = setting(
        "interval at which last.pth is written within an epoch: <n> steps or <n> minutes; it is also written after "
        "each epoch",
        default="10 minutes",
        pattern=r"[1-9]\d* (steps|minutes)",
        changes_result=False,
    )
    overwrite: bool = setting(
        "rename an earlier run of the same name and start a new one", default=False, changes_result=False
    )
    dry_run: bool = setting(
        "check the run, time a few steps of each stage, keep no files", default=False, changes_result=False
    )
    report: bool = setting("write report.html at the end", default=True, changes_result=False)
    resume: bool = setting("resume an unfinished run", default=True, changes_result=False)


@dataclass(frozen=True)
class Settings:
    """All settings of a run; ``stages`` are in the order of training, empty for an evaluation."""

    data: DataSettings
    backbone: BackboneSettings
    stages: tuple[StageSettings, ...]
    run: RunSettings
    compute: ComputeSettings = ComputeSettings()

    @property
    def run_name(self) -> str:
        """Name of the run's folder in ``outpath``."""
        if self.run.exp_id:
            return self.run.exp_id
        labels = ["eval"] if self.run.mode == "eval" else [stage.label for stage in self.stages]
        return "_".join([self.backbone.name, self.data.dataset, *labels])

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return Path(self.run.outpath, self.run_name)

    @property
    def is_searched(self) -> bool:
        """True if a search chooses the alpha or the learning rate of a stage."""
        return any(stage.is_searched for stage in self.stages)

    def after_search(self, stages: Sequence[StageSettings]) -> "Settings":
        """The run that follows a search: with the chosen ``stages``, on all training images."""
        return replace(self, stages=tuple(stages), data=replace(self.data, validation_fraction=0.0))


STAGE_NAMES = ("first_stage", "second_stage")
STAGE_FIELDS: dict[str, Field] = setting_fields(StageSettings) | {
    f"{name}.{key}": f
    for name, method in METHODS.items()
    if method.settings
    for key, f in setting_fields(method.settings).items()
}
"""Config key -> field of a stage; keys of a method's own settings start with the method's name."""
FIELDS: dict[str, Field] = {
    **setting_fields(DataSettings),
    **setting_fields(BackboneSettings),
    **STAGE_FIELDS,
    **setting_fields(ComputeSettings),
    **setting_fields(RunSettings),
}
EXCLUSIVE = (("alpha", "search.alpha"), ("lr", "search.lr"), ("max_iter", "epochs"))
"""Pairs of keys that exclude each other: the second one applies, unless the first is set with higher precedence."""
RENAMED = {"pretrain_path": "source_weights"}
"""Released key -> our key of the same meaning."""


def field_of(key: str) -> Field | None:
    """The field that a dotted key sets, outside or inside blocks, for example ``grid.define.methods.AFA.lr``."""
    while key and key not in FIELDS:
        key = key.partition(".")[2]
    return FIELDS.get(key)


def section_values(section: Any, *, results_only: bool = False) -> dict[str, Any]:
    """Config key -> value of one of the dataclasses above; of a stage also those of its method's own settings."""
    values = {
        key: getattr(section, f.name)
        for key, f in setting_fields(type(section)).items()
        if f.metadata["changes_result"] or not results_only
    }
    if isinstance(section, StageSettings) and section.method_settings:
        own = section_values(section.method_settings, results_only=results_only)
        values |= {f"{section.method}.{key}": value for key, value in own.items()}
    return values


def differences(old: Settings, new: Settings) -> list[str]:
    """Settings that change a run's result and differ, for example ``alpha: 0.1, now 0.2``."""
    before, after = _result_values(old), _result_values(new)

    def shown(values: dict[str, Any], key: str) -> Any:
        return "none" if values.get(key, "") == "" else values[key]

    return [
        f"{key}: {shown(before, key)}, now {shown(after, key)}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _result_values(settings: Settings) -> dict[str, Any]:
    prefixes = [f"{name}." for name in STAGE_NAMES] if len(settings.stages) > 1 else [""]
    sections = [("", section) for section in (settings.data, settings.backbone, settings.compute, settings.run)]
    return {
        prefix + key: value
        for prefix, section in (*sections, *zip(prefixes, settings.stages, strict=False))
        for key, value in section_values(section, results_only=True).items()
    }
