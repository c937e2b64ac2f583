"""What the command line does without a config file: a task each, its settings a small frozen dataclass.

The fields carry the same metadata as those of ``settings.py`` and go through the same
checks. A task is a row of ``TASKS``; what it needs beyond its settings, torch for one,
is imported when it runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from afa.config.layout import find_checkpoint, matching
from afa.config.setting import setting
from afa.config.values import Problem
from afa.data.catalogue import PUBLISHED
from afa.errors import ConfigError

FROM_FOLDER = "from_folder"
_OF_ONE = {
    "images_per_class": ("caltech_256",),
    "test_fraction": (FROM_FOLDER,),
    "seed": (FROM_FOLDER,),
    "target_dataset": (FROM_FOLDER,),
    "download": tuple(PUBLISHED),
}
"""Keys of ``prepare`` that only some of its data sets know."""
_CHECKPOINT = "checkpoint: a file, a run's folder, or the name of a run under outpath"
_OUTPATH = "folder that holds the runs, where pre_trained_path names one"
_BACKBONE = "torchvision's name of the network; only for a released checkpoint, which does not say it"
_CLASSES = "text file, one class name a line; only for a released checkpoint, whose classes are numbered without it"


@dataclass(frozen=True)
class PredictSettings:
    """``mode=predict``: the likeliest classes of images."""

    pre_trained_path: str = setting("pre_trained_path", _CHECKPOINT)
    input: str = setting("input", "an image, a folder of images, or a pattern in quotes, for example 'photos/*.jpg'")
    output: str = setting("output", "folder for predictions.csv and predictions.json", default="predictions")
    base_model_name: str = setting("base_model_name", _BACKBONE, default="")
    classes_file: str = setting("classes_file", _CLASSES, default="")
    batch_size: int = setting("batch_size", "images decoded and classified at a time", default=64, low=1)
    outpath: str = setting("outpath", _OUTPATH, default="runs")
    gpu_id: str = setting("gpu_id", "CUDA card; cpu: none", default="0")


@dataclass(frozen=True)
class ExportSettings:
    """``mode=export``: a trained network as a file for other programs."""

    pre_trained_path: str = setting("pre_trained_path", _CHECKPOINT)
    format: str = setting("format", "of the file", choices=("onnx", "torch_export", "safetensors"))
    output: str = setting("output", "folder for the network, model.json and its card README.md", default="exported")
    base_model_name: str = setting("base_model_name", _BACKBONE, default="")
    classes_file: str = setting("classes_file", _CLASSES, default="")
    outpath: str = setting("outpath", _OUTPATH, default="runs")


@dataclass(frozen=True)
class VisualizeSettings:
    """``mode=visualize``: pictures of what a trained stage looks at and gets wrong."""

    pre_trained_path: str = setting("pre_trained_path", _CHECKPOINT)
    compare: tuple[str, ...] = setting(
        "compare", 'further checkpoints, whose activations are shown beside it: \'["run_l2", "run_delta"]\'', default=()
    )
    input: str = setting("input", "images, as in mode=predict; empty: test images of its data set", default="")
    images: int = setting("images", "how many of them are shown", default=4, low=1, high=64)
    output: str = setting("output", "folder for the PNG files and for tensorboard/", default="visualized")
    base_model_name: str = setting("base_model_name", _BACKBONE, default="")
    outpath: str = setting("outpath", _OUTPATH, default="runs")
    gpu_id: str = setting("gpu_id", "CUDA card; cpu: none", default="0")


@dataclass(frozen=True)
class PrepareSettings:
    """``prepare=<data set>``: the owner's archives, or a folder of pictures, into training and test images."""

    prepare: str = setting("prepare", "data set, or from_folder", choices=(*PUBLISHED, FROM_FOLDER))
    archive: str = setting("archive", "folder of the owner's files, or one of them; from_folder: the folder of classes")
    target_data_dir: str = setting("target_data_dir", "folder that holds the data sets")
    target_dataset: str = setting(
        "target_dataset",
        "from_folder: name of the data set; empty: the folder's",
        default="",
        pattern=r"(?!\.)[^/\\]*",
    )
    images_per_class: int = setting(
        "images_per_class", "caltech_256: training images a class, 10 to 60 in the paper", default=30, low=1, high=60
    )
    test_fraction: float = setting(
        "test_fraction", "from_folder: part of each class that is for the test", default=0.2, low=0.01, high=0.9
    )
    seed: int = setting("seed", "from_folder: of the choice of test images", default=1, low=0, high=2**31)
    download: bool = setting("download", "fetch files that are not in archive from their owners", default=False)


class Task(NamedTuple):
    """One thing to do.

    Attributes:
        settings: the dataclass of its settings.
        function: ``module:name`` of what is called with them.
        check: further problems of the values that are right by themselves; keys may be missing.
        example, summary: the command's words and a line, for ``--help``.
    """

    settings: type
    function: str
    check: Callable[[Mapping[str, Any]], list[Problem]]
    example: str
    summary: str

    def run(self, settings: Any) -> None:
        """Do it."""
        module, _, name = self.function.partition(":")
        getattr(import_module(module), name)(settings)


def check_checkpoint(checked: Mapping[str, Any]) -> list[Problem]:
    """Whether the files that name a network are there."""
    problems = []
    if checked.get("pre_trained_path"):
        try:
            find_checkpoint(checked["pre_trained_path"], checked.get("outpath", "runs"))
        except ConfigError as error:
            problems.append(Problem("pre_trained_path", str(error)))
    if checked.get("classes_file") and not Path(checked["classes_file"]).is_file():
        problems.append(Problem("classes_file", f"no such file: {checked['classes_file']}"))
    return problems


def _check_predict(checked: Mapping[str, Any]) -> list[Problem]:
    problems = check_checkpoint(checked)
    wanted = checked.get("input")
    if wanted and not matching(wanted):
        problems.append(Problem("input", f"no such image or folder, and a pattern that nothing matches: {wanted}"))
    return problems


def _check_visualize(checked: Mapping[str, Any]) -> list[Problem]:
    problems = _check_predict(checked)
    for name in checked.get("compare", ()):
        problems += [
            problem._replace(key="compare") for problem in check_checkpoint({**checked, "pre_trained_path": name})
        ]
    return problems


def _check_prepare(checked: Mapping[str, Any]) -> list[Problem]:
    dataset, problems = checked.get("prepare"), []
    for key, known in _OF_ONE.items():
        if dataset and key in checked and dataset not in known:
            problems.append(Problem(key, f"is no setting of prepare={dataset} (of: {', '.join(known)})"))
    archive = checked.get("archive")
    if archive and not Path(archive).exists() and not checked.get("download"):
        problems.append(Problem("archive", f"no such file or folder: {archive}"))
    return problems


TASKS: dict[str, Task] = {
    "prepare": Task(
        PrepareSettings,
        "afa.prepare.command:prepare",
        _check_prepare,
        "prepare=stanford_dogs archive=/downloads target_data_dir=/data",
        f"a published data set ({', '.join(PUBLISHED)}), or with {FROM_FOLDER}\n"
        "      a folder of classes, into training and test images",
    ),
    "predict": Task(
        PredictSettings,
        "afa.inference.predict:predict_files",
        _check_predict,
        "mode=predict pre_trained_path=best.pth input=photo.jpg",
        "the five likeliest classes of an image, a folder or a pattern; also as CSV and JSON",
    ),
    "export": Task(
        ExportSettings,
        "afa.inference.export:export",
        check_checkpoint,
        "mode=export pre_trained_path=best.pth format=onnx",
        "the network as ONNX, torch.export or safetensors, with a model card",
    ),
    "visualize": Task(
        VisualizeSettings,
        "afa.report.visualize:visualize",
        _check_visualize,
        "mode=visualize pre_trained_path=runs/demo",
        "PNG files of a checkpoint: attention, activations, confusions, curves",
    ),
}
"""Value of ``mode`` -> the task; ``prepare`` is chosen by the key of that name."""
