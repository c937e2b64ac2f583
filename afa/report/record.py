"""What a finished run left in its folder, read for its report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afa.config.hocon import load_settings
from afa.config.layout import LAST, RESULT, SETTINGS, stage_folder
from afa.config.settings import Settings
from afa.errors import CheckpointError
from afa.results.figures import Row, StageResult
from afa.results.records import read_json
from afa.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class StageRecord:
    """One stage of one repeat; ``history`` has a row an epoch, and is empty where ``last.pth`` is gone."""

    result: StageResult
    history: list[Row]
    folder: Path


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes:
        folder: where it is.
        settings: as it was made with.
        settings_text: the same as HOCON.
        result: what ``result.json`` holds.
        repeats: the stages of each repeat; empty for an evaluation.
    """

    folder: Path
    settings: Settings
    settings_text: str
    result: dict[str, Any]
    repeats: list[list[StageRecord]]

    @property
    def last_folder(self) -> Path:
        """Where the predictions of the first repeat's last stage, or of the evaluation, are."""
        return self.repeats[0][-1].folder if self.repeats else self.folder


def read_run(folder: Path) -> RunRecord:
    """The record of the finished run in ``folder``.

    Raises:
        AFAError: a file of it is altered.
    """
    result, repeats = read_json(
        folder / RESULT, lambda values: ({**values, "run": str(values["run"])}, _repeats(folder, values))
    )
    settings = load_settings(folder / SETTINGS)
    text = (folder / SETTINGS).read_text(encoding="utf-8")
    return RunRecord(folder, settings, text, result, repeats)


def _repeats(folder: Path, values: dict[str, Any]) -> list[list[StageRecord]]:
    repeats = values.get("repeats", [])
    return [
        [
            _stage(stage, stage_folder(folder, repeat=r, repeats=len(repeats), stage=s, stages=len(stages)))
            for s, stage in enumerate(stages, start=1)
        ]
        for r, stages in enumerate(repeats, start=1)
    ]


def _stage(values: dict[str, Any], folder: Path) -> StageRecord:
    try:
        history = load_checkpoint(folder / LAST).training.get("history", [])
    except CheckpointError:  # removed to make room: the report goes without curves
        history = []
    return StageRecord(StageResult.from_dict(values), history, folder)
