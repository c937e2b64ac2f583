"""Settings: one frozen dataclass a subject, every field typed, bounded and with its reason.

Each field carries its key in the config file. The released code's keys keep their
names and meaning there (SPEC section 4), also where they read oddly: its ``beta`` is
the paper's gamma, its ``gamma`` the learning-rate factor. This file is the only one
that knows them; the rest of the program uses the field names.
"""

from dataclasses import Field, dataclass, fields
from typing import Any

from afa.config.setting import setting
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
        "bad_images",
        "error: stop and name them; skip: go on without, counted",
        default="error",
        choices=("error", "skip"),
    )
    cache: str = setting(
        "cache",
        "decoded and resized pixels: kept in memory; on the disk, for all runs; none: decode at each use",
        default="memory",
        choices=("memory", "disk", "none"),
        changes_result=False,
    )
    cache_dir: str = setting(
        "cache_dir",
        "folder of cache = disk; may be removed at any time",
        default="~/.cache/afa/images",
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
    aligned_layers: tuple[str, ...] | int = setting(
        "aligned_layers",
        "module names whose outputs are compared, or 4, 8, 12: so many, spread evenly; empty: the paper's four",
        default=(),
        low=4,
        high=12,
    )


@dataclass(frozen=True)
class StageSettings:
    """One stage of training; in a two-stage run its keys may stand in ``first_stage { }`` and ``second_stage { }``."""

    method: str = setting(
        "reg_type",
        "method, or outside the stages' blocks a recipe of two stages",
        choices=(*METHODS, *RECIPES),
        aliases=RELEASED_METHODS,
    )
    alpha: float = setting("alpha", "weight of what the method adds to the loss", default=0.0, low=0.0)
    search_alpha: tuple[float, ...] = setting(
        "search.alpha",
        "values of alpha to try on held-out images; the best is then trained with on all of them",
        default=(),
        low=0.0,
    )
    head_penalty: float = setting("beta", "weight of 1/2 ||head||^2, the paper's gamma", default=0.01, low=0.0)
    learning_rate: float = setting("lr", "one rate for backbone, head and attention", default=0.01, low=0.0)
    max_iter: int = setting("max_iter", "steps; turned into whole epochs", default=4500, low=1)
    epochs: int = setting(
        "epochs",
        "whole epochs; 0: by max_iter; where neither is given: 10 for L2-FE",
        default=0,
        low=0,
        high=1_000_000,
    )
    schedule: str = setting(
        "lr_scheduler",
        "steplr: one drop at 0.67 of the epochs; coslr: cosine to 0; explr: one factor every 6 epochs, exponentially; "
        "where not given: explr for L2-FE",
        default="steplr",
        choices=("steplr", "coslr", "explr"),
    )
    decay_factor: float = setting("gamma", "steplr's and explr's factor", default=0.1, low=0.0, high=1.0)
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
    grad_clip: float = setting("grad_clip", "largest L2 norm of the gradient; 0: any", default=0.0, low=0.0)
    seed: int = setting("seed", "repeat k uses seed + k - 1", default=1, low=0, high=2**31)
    channel_weight_path: str = setting(
        "channel_weight_path",
        "JSON of the channel weights of DELTA and act_fixed, one list a layer; empty: computed first",
        default="",
    )
    attention_path: str = setting(
        "attention_path",
        "AST run or checkpoint whose mean attention ast_fixed keeps; empty: one is trained first",
        default="",
    )
    keep_source: bool = setting(
        "keep_source",
        "true: the frozen source is the pre-trained network also where the stage starts from another (Table 10)",
        default=False,
    )

    @property
    def label(self) -> str:
        """The stage's name in run names and tables."""
        return METHODS[self.method].label + ("-source-kept" if self.keep_source else "")


@dataclass(frozen=True)
class ComputeSettings:
    """How the training step is computed: what changes its speed and its rounding, not its meaning."""

    channels_last: bool = setting(
        "channels_last",
        "true: maps lie in memory with the channels of a position side by side, a third faster on a CPU; "
        "false: a map after the other, batch statistics exact to 3e-7, not 2e-5",
        default=True,
    )
    precision: str = setting(
        "precision",
        "of a training step's networks; fp32: as published; tf32, bf16: CUDA 8.0 up, bf16 also CPUs with "
        "avx512_bf16 or amx_bf16; fp16: CUDA",
        default="fp32",
        choices=("fp32", "tf32", "bf16", "fp16"),
    )
    compile: bool = setting("compile", "true: torch.compile of the target; minutes at the start", default=False)


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
    search_repeat: int = setting(
        "search.repeat", "how many seeds each value is tried with", default=1, low=1, high=1000
    )
    gpu_id: str = setting("gpu_id", "CUDA card; cpu: none", default="0", changes_result=False)
    sync_bn: bool = setting(
        "sync_bn", "under torchrun: batch-norm over the images of all processes, as one process has it", default=False
    )
    print_freq: int = setting(
        "print_freq", "steps between two lines of experiment.log", default=10, low=1, changes_result=False
    )
    quiet: bool = setting(
        "quiet",
        "nothing on the terminal but errors; all of it is in experiment.log",
        default=False,
        changes_result=False,
    )
    test_every: int = setting(
        "test_every",
        "epochs between two scorings of the test or held-out images; the last epoch is always scored",
        default=1,
        low=1,
    )
    checkpoint_every: str = setting(
        "checkpoint_every",
        "beside every epoch's end, when last.pth is written: <n> steps or <n> minutes",
        default="10 minutes",
        pattern=r"[1-9]\d* (steps|minutes)",
        changes_result=False,
    )
    overwrite: bool = setting(
        "overwrite", "start anew, in place of a run of the same name", default=False, changes_result=False
    )
    dry_run: bool = setting(
        "dry_run",
        "check everything, take a step of each stage, say how long and how large; keep nothing",
        default=False,
        changes_result=False,
    )
    report: bool = setting("report", "write report.html when the run is done", default=True, changes_result=False)
    resume: bool = setting("resume", "go on with an unfinished run", default=True, changes_result=False)


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; ``stages`` in the order in which they are trained."""

    data: DataSettings
    backbone: BackboneSettings
    stages: tuple[StageSettings, ...]
    run: RunSettings
    compute: ComputeSettings = ComputeSettings()

    @property
    def run_name(self) -> str:
        """Name of the run's folder under ``outpath``."""
        if self.run.exp_id:
            return self.run.exp_id
        labels = ["eval"] if self.run.mode == "eval" else [stage.label for stage in self.stages]
        return "_".join([self.backbone.name, self.data.dataset, *labels])


SECTIONS: tuple[type, ...] = (DataSettings, BackboneSettings, StageSettings, ComputeSettings, RunSettings)
STAGE_NAMES = ("first_stage", "second_stage")
FIELDS: dict[str, tuple[type, Field]] = {
    f.metadata["key"]: (section, f) for section in SECTIONS for f in fields(section)
}
STAGE_KEYS = tuple(key for key, (section, _) in FIELDS.items() if section is StageSettings)
SEARCH = "search"
"""Block that holds the keys ``search.*``."""
RENAMED = {"pretrain_path": "source_weights"}
"""Released key -> the key that says the same here."""


def differences(old: Settings, new: Settings) -> list[str]:
    """What changes a run's result between two settings, for example ``alpha: 0.1, now 0.2``."""
    before, after = _what_changes_results(old), _what_changes_results(new)
    return [
        f"{key}: {before.get(key, 'none')}, now {after.get(key, 'none')}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _what_changes_results(settings: Settings) -> dict[str, Any]:
    shared = (settings.data, settings.backbone, settings.compute, settings.run)
    parts: list[tuple[str, Any]] = [("", part) for part in shared]
    prefixes = [f"{name}." for name in STAGE_NAMES] if len(settings.stages) > 1 else [""]
    parts += zip(prefixes, settings.stages, strict=False)
    return {
        prefix + f.metadata["key"]: getattr(part, f.name)
        for prefix, part in parts
        for f in fields(part)
        if f.metadata["changes_result"]
    }
