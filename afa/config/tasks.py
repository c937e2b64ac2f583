"""Tasks: commands without a config file. Each has a small frozen dataclass of settings.

A task is a row of ``TASKS``. What it needs in addition, torch for example, is imported when it runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from afa.config.values import (
    ASSIGNMENT,
    Problems,
    check_paths,
    check_required,
    check_values,
    nearest,
    parse_assignments,
)
from afa.data.published import PUBLISHED
from afa.errors import ConfigError
from afa.fields import setting, setting_fields
from afa.results.run_folder import matching

FROM_FOLDER = "from_folder"
_DATA_SETS_OF = {
    "images_per_class": ("caltech_256", "grocery_store"),
    "subset": ("grocery_store",),
    "test_fraction": (FROM_FOLDER,),
    "seed": (FROM_FOLDER,),
    "target_dataset": (FROM_FOLDER,),
    "download": tuple(PUBLISHED),
}
"""Key of ``prepare`` -> the data sets that have it, if not all do."""
_CHECKPOINT = "checkpoint: a file, a run's folder, or the name of a run in outpath"
_OUTPATH = "folder that contains the runs, if pre_trained_path names one"
_BACKBONE = "torchvision's name of the network; only for released checkpoints, which do not contain it"
_CLASSES = "text file, one class name per line; only for released checkpoints, whose classes are numbered without it"
_GPU = "index of the CUDA GPU, or cpu"


@dataclass(frozen=True)
class PredictSettings:
    """``mode=predict``: the most likely classes of images."""

    pre_trained_path: str = setting(_CHECKPOINT, names="checkpoint")
    input: str = setting(
        "an image, a folder of images, or a pattern in quotes, for example 'photos/*.jpg'", names="images"
    )
    output: str = setting("folder for predictions.csv and predictions.json", default="predictions", names="output")
    base_model_name: str = setting(_BACKBONE, default="")
    classes_file: str = setting(_CLASSES, default="", names="file")
    batch_size: int = setting("number of images per batch", default=64, low=1)
    outpath: str = setting(_OUTPATH, default="runs", names="output")
    gpu_id: str = setting(_GPU, default="0")


@dataclass(frozen=True)
class EvaluationSettings:
    """``mode=eval`` without a config: the accuracies of a checkpoint on the test images of a data set."""

    pre_trained_path: str = setting(_CHECKPOINT, names="checkpoint")
    target_data_dir: str = setting(
        "folder that contains the data sets; empty: that of the checkpoint's run", default="", names="folder"
    )
    target_dataset: str = setting("folder of the data set; empty: that of the checkpoint's run", default="")
    base_model_name: str = setting(_BACKBONE, default="")
    batch_size: int = setting("number of images per batch", default=64, low=1)
    num_workers: int = setting("processes that decode images", default=4, low=0, high=256)
    bad_images: str = setting(
        "error: stop and list bad images; skip: ignore them", default="error", choices=("error", "skip")
    )
    outpath: str = setting(_OUTPATH, default="runs")
    gpu_id: str = setting(_GPU, default="0")


@dataclass(frozen=True)
class ExportSettings:
    """``mode=export``: a trained network as a file for other programs."""

    pre_trained_path: str = setting(_CHECKPOINT, names="checkpoint")
    format: str = setting(
        "format of the file: onnx, torch_export or safetensors", choices=("onnx", "torch_export", "safetensors")
    )
    output: str = setting(
        "folder for the network, model.json and the model card README.md", default="exported", names="output"
    )
    base_model_name: str = setting(_BACKBONE, default="")
    classes_file: str = setting(_CLASSES, default="", names="file")
    outpath: str = setting(_OUTPATH, default="runs", names="output")


@dataclass(frozen=True)
class VisualizeSettings:
    """``mode=visualize``: images of the attention, activations and errors of a trained stage."""

    pre_trained_path: str = setting(_CHECKPOINT, names="checkpoint")
    compare: tuple[str, ...] = setting(
        "other checkpoints whose activations are shown next to those of pre_trained_path, "
        "for example '[run_l2,run_delta]'",
        default=(),
        names="checkpoint",
        example="[run_l2, run_delta]",
    )
    input: str = setting("images, as in mode=predict; empty: test images of its data set", default="", names="images")
    images: int = setting("number of images to show", default=4, low=1, high=64)
    output: str = setting("folder for the PNG files and for tensorboard/", default="visualized", names="output")
    base_model_name: str = setting(_BACKBONE, default="")
    outpath: str = setting(_OUTPATH, default="runs", names="output")
    gpu_id: str = setting(_GPU, default="0")


@dataclass(frozen=True)
class PrepareSettings:
    """``prepare=<data set>``: split a published data set or a folder of images into training and test images."""

    prepare: str = setting("data set, or from_folder", choices=(*PUBLISHED, FROM_FOLDER))
    archive: str = setting(
        "folder of the downloaded files, or one of them; grocery_store: also a clone; from_folder: folder that "
        "contains the classes",
        names="archive",
    )
    target_data_dir: str = setting("folder that contains the data sets", names="folder")
    target_dataset: str = setting(
        "from_folder: name of the data set; empty: name of the folder in archive", default="", pattern=r"(?!\.)[^/\\]*"
    )
    images_per_class: int = setting(
        "training images per class; caltech_256: 10 to 60 in the paper, 0: 30; grocery_store: maximum, in the order of "
        "train.txt, 0: all",
        default=0,
        low=0,
        high=60,
    )
    subset: str = setting(
        "grocery_store: all, or produce: the classes outside Packages with at least 20 training images",
        default="all",
        choices=("all", "produce"),
    )
    test_fraction: float = setting(
        "from_folder: fraction of each class used as test images", default=0.2, low=0.01, high=0.9
    )
    seed: int = setting("from_folder: random seed of the choice of test images", default=1, low=0, high=2**31)
    download: bool = setting("download missing files of archive from the owner of the data set", default=False)


class Task(NamedTuple):
    """A task of the command line.

    Attributes:
        settings: the dataclass of its settings.
        function: ``module:name`` of the function that is called with them.
        example, summary: a command and what it does, for ``--help``.
    """

    settings: type
    function: str
    example: str
    summary: str

    def load(self) -> Callable[[Any], None]:
        """Import the function."""
        return resolve_name(self.function)


def _check_together(checked: Mapping[str, Any], problems: Problems) -> None:
    """Check values that passed their own checks against each other and the file system; keys may be missing."""
    if checked.get("input") and not matching(checked["input"])[0]:
        problems.add("input", f"no such image or folder, and no file matches it as a pattern: {checked['input']}")
    dataset = checked.get("prepare")
    for key, known in _DATA_SETS_OF.items():
        if dataset and key in checked and dataset not in known:
            problems.add(key, f"is not a setting of prepare={dataset} (only of: {', '.join(known)})")
    archive = checked.get("archive")
    if archive and not Path(archive).exists() and not checked.get("download"):
        problems.add("archive", f"no such file or folder: {archive}")


TASKS: dict[str, Task] = {
    "prepare": Task(
        PrepareSettings,
        "afa.preparation.preparing:prepare",
        "prepare=stanford_dogs archive=/downloads target_data_dir=/data",
        f"split a published data set ({', '.join(PUBLISHED)}), or with\n"
        f"      {FROM_FOLDER} a folder of classes, into training and test images",
    ),
    "predict": Task(
        PredictSettings,
        "afa.inference.predictions:predict_files",
        "mode=predict pre_trained_path=best.pth input=photo.jpg",
        "print the five most likely classes of an image, a folder or a pattern, also as CSV and JSON",
    ),
    "eval": Task(
        EvaluationSettings,
        "afa.entry:evaluate",
        "mode=eval pre_trained_path=runs/demo",
        "evaluate a checkpoint on the test images of its data set, or of target_dataset in target_data_dir",
    ),
    "export": Task(
        ExportSettings,
        "afa.inference.exporters:export",
        "mode=export pre_trained_path=best.pth format=onnx",
        "export the network as ONNX, torch.export or safetensors, with a model card",
    ),
    "visualize": Task(
        VisualizeSettings,
        "afa.report.visualization:visualize",
        "mode=visualize pre_trained_path=runs/demo",
        "draw the attention, activations, confusions and curves of a checkpoint as PNG files",
    ),
}
"""Value of ``mode`` -> the task; ``prepare`` is chosen by the key of that name."""


def is_setting(argument: str) -> bool:
    """Whether an argument is ``key=value``, not the name of a file, which may contain the sign."""
    return ASSIGNMENT.fullmatch(argument) is not None and not Path(argument).is_file()


def task_name(arguments: Sequence[str]) -> str:
    """The task that the arguments select; empty if they select none."""
    chosen = {match[1]: match[2] for match in map(ASSIGNMENT.fullmatch, arguments) if match}
    return chosen.get("mode", "prepare" if "prepare" in chosen else "")


def load_task(arguments: Sequence[str]) -> tuple[Task, Any]:
    """The task and its settings.

    Raises:
        ConfigError: every problem on its own line: key, what would be right.
    """
    name = task_name(arguments)
    if name not in TASKS:
        choices = ", ".join("prepare=<data set>" if task == "prepare" else f"mode={task}" for task in TASKS)
        if name == "train":
            message = f"mode={name} needs a CONFIG as the first argument, for example hocon_config/demo/afa.hocon"
        elif name:
            message = f"mode: unknown value '{name}'{nearest(name, TASKS)} (known without a CONFIG: {choices})"
        else:
            message = f"nothing to do; name a CONFIG first, or use one of {choices}"
        raise ConfigError(f"command line: {message}")
    task, problems = TASKS[name], Problems()
    known = setting_fields(task.settings)
    values = parse_assignments(arguments, known.get, problems)
    keys = [match[1] for match in map(ASSIGNMENT.fullmatch, arguments) if match]
    for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        problems.add(key, "set twice; keep one")
    values.pop("mode", None)

    def unknown(key: str) -> str:
        return f"unknown key of {name}{nearest(key, known)} (known: {', '.join(known)})"

    checked = check_values(values, known, problems, unknown=unknown)
    check_required(values, known, problems)
    check_paths(checked, known.get, checked.get("outpath", "runs"), problems)
    _check_together(checked, problems)
    if problems.found:
        raise ConfigError([f"command line: {key}: {message}" for key, message in problems.found])
    return task, task.settings(**{known[key].name: value for key, value in checked.items()})
