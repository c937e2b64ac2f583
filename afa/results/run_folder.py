"""File names in the folder of a run, and the rule by which ``pre_trained_path`` finds a checkpoint. Needs no torch."""

import glob
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from afa.errors import ConfigError
from afa.files import LOCK


@dataclass
class StageFolder:
    """Files of one stage of one repeat, or of an evaluation."""

    path: Path

    def __post_init__(self) -> None:
        path = self.path
        self.checkpoints = path / "check_point"
        self.best = self.checkpoints / "best.pth"
        self.last = self.checkpoints / "last.pth"
        self.previous = self.checkpoints / "previous.pth"  # the last.pth before the newest one
        self.log_txt = path / "log.txt"
        self.tensorboard = path / "tensorboard"
        self.predictions_csv = path / "predictions.csv"
        self.per_class_csv = path / "per_class.csv"
        self.result = path / "stage.json"

    def best_or_last(self, which: str) -> Path:
        """The checkpoint ``best`` or ``last``."""
        return {"best": self.best, "last": self.last}[which]

    def nested(self, name: str) -> "StageFolder":
        """Folder of a stage that this stage trains first."""
        return StageFolder(self.path / name)


@dataclass
class RunFolder:
    """Files of a run in ``<outpath>/<run name>``, and next to it the folder of its search."""

    path: Path

    def __post_init__(self) -> None:
        path = self.path
        self.settings_log = path / "settings.log"
        self.experiment_log = path / "experiment.log"
        self.result = path / "result.json"
        self.report_html = path / "report.html"
        self.lock = path / LOCK
        self.search_folder = path.parent / f"{path.name}.search"
        self.as_stage = StageFolder(path)  # an evaluation writes its predictions into the run's folder itself

    def stage_folder(self, *, repeat: int, repeats: int, stage: int, stages: int) -> StageFolder:
        """Folder of a stage; ``repeat`` and ``stage`` count from 1. Only several repeats or stages have subfolders."""
        path = self.path / f"repeat_{repeat}" if repeats > 1 else self.path
        return StageFolder(path / f"stage_{stage}" if stages > 1 else path)


def find_run(checkpoint: Path) -> RunFolder | None:
    """The run that wrote a checkpoint; None if the checkpoint is not in the folder of a run."""
    folder = checkpoint.absolute().parent
    if StageFolder(folder.parent).checkpoints != folder:
        return None
    folder = folder.parent
    while re.fullmatch(r"(repeat|stage)_\d+", folder.name):
        folder = folder.parent
    return RunFolder(folder)


def stage_name(checkpoint: Path) -> str:
    """Name of the run of a checkpoint, with ``repeat_<n>`` and ``stage_<n>``; the file's name if it is in no run."""
    run = find_run(checkpoint)
    return str(checkpoint.absolute().parent.parent.relative_to(run.path.parent)) if run else checkpoint.stem


def find_checkpoint(pre_trained_path: str, outpath: str, repeat: int = 1, *, which: str = "best") -> Path:
    """Path of the checkpoint that ``pre_trained_path`` names.

    This is a file or the folder of a run; a folder may be relative to ``outpath``. For a run, it
    is the ``best`` or ``last`` checkpoint of its last stage; if the run has several repeats, that of ``repeat``.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    path = Path(pre_trained_path)
    if path.is_file():
        return path
    for names in product((path, Path(outpath) / path), (f"repeat_{repeat}", ""), ("stage_2", "")):
        if (found := StageFolder(Path(*names)).best_or_last(which)).is_file():
            return found
    expected = StageFolder(Path(outpath) / path).best_or_last(which)
    raise ConfigError(f"no checkpoint at {path} or {expected}; train that run first, or set the path of a checkpoint")


def matching(wanted: str) -> tuple[list[Path], str]:
    """The file or folder ``wanted``, otherwise all matches of a pattern; and a pattern for the files below them.

    Of ``photos/**/*.jpg`` these are ``photos`` and ``*.jpg``: glob does not end if links form a circle.
    """
    if Path(wanted).exists():
        return [Path(wanted)], ""
    deep = re.fullmatch(r"(|.*?/)\*\*(?:/(.*))?", wanted, re.DOTALL)
    start, below = (deep[1] or ".", deep[2] or "") if deep else (wanted, "")
    # Without a match, "[" is a character of a name.
    names = glob.glob(start) or glob.glob(start.replace("[", "[[]"))  # noqa: PTH207 (Path.glob needs a relative one)
    return [Path(name) for name in names], below
