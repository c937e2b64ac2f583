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
from afa.config.schema import Problem
from afa.config.settings import setting
from afa.errors import ConfigError

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


TASKS: dict[str, Task] = {
    "predict": Task(
        PredictSettings,
        "afa.inference.predict:predict_files",
        _check_predict,
        "mode=predict pre_trained_path=best.pth input=photo.jpg",
        "the five likeliest classes of an image, a folder or a pattern; also as CSV and JSON",
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
