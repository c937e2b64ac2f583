"""File names in the folder of a run, and the rule by which ``pre_trained_path`` finds a checkpoint. Needs no torch."""

import glob
from dataclasses import dataclass
from pathlib import Path

from afa.errors import ConfigError
from afa.files import LOCK


@dataclass(frozen=True)
class StageFolder:
    """Files of one stage of one repeat, or of an evaluation."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "check_point"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.pth"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.pth"

    @property
    def previous(self) -> Path:
        """The ``last.pth`` before the newest one."""
        return self.checkpoints / "previous.pth"

    @property
    def log_txt(self) -> Path:
        return self.path / "log.txt"

    @property
    def result(self) -> Path:
        return self.path / "stage.json"

    @property
    def predictions_csv(self) -> Path:
        return self.path / "predictions.csv"

    @property
    def per_class_csv(self) -> Path:
        return self.path / "per_class.csv"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def nested(self, name: str) -> "StageFolder":
        """Folder of a stage that runs as a step of this one."""
        return StageFolder(self.path / name)


@dataclass(frozen=True)
class RunFolder:
    """Files of a run in ``<outpath>/<run name>``."""

    path: Path

    @property
    def settings_log(self) -> Path:
        return self.path / "settings.log"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def experiment_log(self) -> Path:
        return self.path / "experiment.log"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    @property
    def search_folder(self) -> Path:
        """Folder of the runs that search for alpha, next to the run."""
        return self.path.with_name(f"{self.path.name}.search")

    @property
    def as_stage(self) -> StageFolder:
        """The run's folder itself, to which an evaluation writes its predictions."""
        return StageFolder(self.path)

    def stage(self, *, repeat: int, repeats: int, stage: int, stages: int) -> StageFolder:
        """Folder of a stage, ``repeat`` and ``stage`` counted from 1.

        A run with several repeats has a subfolder for each, and so does a repeat with several stages.
        """
        path = self.path / f"repeat_{repeat}" if repeats > 1 else self.path
        return StageFolder(path / f"stage_{stage}" if stages > 1 else path)


def find_checkpoint(pre_trained_path: str, outpath: str, repeat: int = 1) -> Path:
    """Path of the checkpoint that ``pre_trained_path`` names.

    It is a file, or the folder of a run, absolute, relative to the working directory, or
    relative to ``outpath``. The result for a run is the best checkpoint of its last stage;
    if the run has several repeats, of the repeat with the same number.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    path = Path(pre_trained_path)
    if path.is_file():
        return path
    for run in (path, Path(outpath) / path):
        for folder in (run / f"repeat_{repeat}", run):
            for stage in (StageFolder(folder / "stage_2"), StageFolder(folder)):
                if stage.best.is_file():
                    return stage.best
    expected = StageFolder(Path(outpath) / path).best
    raise ConfigError(f"no checkpoint at {path} or {expected}; train that run first, or set the path of a checkpoint")


def matching(wanted: str) -> list[Path]:
    """The file or folder ``wanted``; otherwise all matches of a pattern such as ``photos/**/*.jpg``."""
    if Path(wanted).exists():
        return [Path(wanted)]
    return [Path(name) for name in glob.glob(wanted, recursive=True)]  # noqa: PTH207 (Path.glob needs a relative one)
