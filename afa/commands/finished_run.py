"""Reads the files of a finished run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from afa.config.hocon import load_settings
from afa.config.settings import Settings
from afa.errors import CheckpointError
from afa.files import read_json, read_text
from afa.results.outcomes import EpochRow, StageResult
from afa.results.run_folder import RunFolder, StageFolder
from afa.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class FinishedStage:
    """One stage of one repeat."""

    result: StageResult
    folder: StageFolder

    @property
    def history(self) -> list[EpochRow]:
        """One row per epoch; empty if ``last.pth`` was removed."""
        try:
            return load_checkpoint(self.folder.last).history
        except CheckpointError:
            return []


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        result: content of ``result.json``.
        repeats: the stages of each repeat; empty for an evaluation.
    """

    folder: RunFolder
    result: dict[str, Any]
    repeats: list[list[FinishedStage]]

    @cached_property
    def settings(self) -> Settings:
        """Parsed at the first use: a report on hundreds of runs needs few of them."""
        return load_settings(self.folder.settings_log)

    @property
    def settings_text(self) -> str:
        """The settings as HOCON."""
        return read_text(self.folder.settings_log)

    @property
    def last_stage(self) -> StageFolder:
        """Folder with the predictions of the first repeat's last stage, or of the evaluation."""
        return self.repeats[0][-1].folder if self.repeats else self.folder.as_stage


def read_finished_run(path: Path) -> FinishedRun:
    """Read the finished run in the folder ``path``.

    Raises:
        AFAError: one of its files was modified.
    """
    folder = RunFolder(path)

    def parse(values: Any) -> tuple[dict[str, Any], list[list[FinishedStage]]]:
        repeats = values.get("repeats", [])
        return {**values, "run": str(values["run"]), "table": str(values.get("table", ""))}, [
            [
                FinishedStage(
                    StageResult.from_dict(stage),
                    folder.stage_folder(repeat=repeat, repeats=len(repeats), stage=number, stages=len(stages)),
                )
                for number, stage in enumerate(stages, start=1)
            ]
            for repeat, stages in enumerate(repeats, start=1)
        ]

    return FinishedRun(folder, *read_json(folder.result, parse))
