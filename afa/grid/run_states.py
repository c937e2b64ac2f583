"""State and results of a grid's runs, read from their folders."""

import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from afa.commands.finished_run import read_finished_run
from afa.commands.image_reader import changed_data, with_validation_folder
from afa.config.formatting import format_settings
from afa.config.grid import Cell
from afa.config.hocon import load_settings
from afa.config.settings import Settings, StageSettings, differences
from afa.errors import AFAError
from afa.files import read_text
from afa.method.catalogue import METHODS
from afa.results.outcomes import StageResult
from afa.results.run_folder import RunFolder


class State(StrEnum):
    """Progress of a run. A ``BROKEN`` run cannot be used: damaged, not finite, or made with other settings."""

    DONE = "done"
    PARTIAL = "partial"
    MISSING = "missing"
    BROKEN = "broken"


class GridRun(NamedTuple):
    """One run of a grid and the content of its folder.

    Attributes:
        problem: why the run is broken.
        settings: with the values that a search chose; this and the following attributes only of a run that is done.
        stages: results of each stage.
        images_per_class: training images per class.
    """

    cell: Cell
    state: State
    problem: str = ""
    settings: Settings | None = None
    stages: tuple[StageResult, ...] = ()
    images_per_class: float = math.nan

    @property
    def alphas(self) -> str:
        """Of each stage that has one, as trained with."""
        stages = self.settings.stages if self.settings else ()
        return " / ".join(f"{stage.alpha:g}" for stage in stages if METHODS[stage.method].terms)

    @property
    def learning_rates(self) -> str:
        """Of each stage, as trained with."""
        return " / ".join(f"{stage.learning_rate:g}" for stage in (self.settings.stages if self.settings else ()))

    @property
    def steps(self) -> str:
        """Of each stage; empty if an earlier version trained the run."""
        return (
            " + ".join(str(stage.steps) for stage in self.stages) if all(stage.steps for stage in self.stages) else ""
        )


def read_run(cell: Cell) -> GridRun:
    """Read the folder of one run. Never raises, whatever the folder contains."""
    folder = RunFolder(cell.folder)
    if not folder.settings_log.exists():
        return GridRun(cell, State.MISSING)
    try:
        settings = _settings_of(folder, cell)
        if not folder.result.exists():
            return GridRun(cell, State.PARTIAL)
        finished = read_finished_run(folder.path)
        stages = tuple(stage.result for repeat in finished.repeats[:1] for stage in repeat)
        if not stages:
            raise AFAError(f"{folder.result}: its accuracies are missing")
        images_per_class = finished.result["data"]["train"]["images"] / finished.result["data"]["classes"]
    except AFAError as error:
        return GridRun(cell, State.BROKEN, problem="; ".join(error.lines))
    except (KeyError, TypeError, ZeroDivisionError):
        return GridRun(cell, State.BROKEN, problem=f"{folder.result}: damaged; delete it and run the grid again")
    return GridRun(cell, State.DONE, "", settings, stages, images_per_class)


def read_run_and_data(cell: Cell, digests: dict[Any, Any]) -> GridRun:
    """As ``read_run``, but a finished run of other images than those on the disk is broken."""
    found = read_run(cell)
    if found.state is State.DONE and found.settings:
        settings = replace(found.settings, data=replace(found.settings.data, root=cell.first_seed.data.root))
        try:
            changed = changed_data(settings, read_finished_run(cell.folder).result, digests)
        except AFAError as error:
            changed = error.lines
        if changed:
            return GridRun(cell, State.BROKEN, f"{cell.folder}: made with other data ({'; '.join(changed)})")
    return found


def _settings_of(folder: RunFolder, cell: Cell) -> Settings:
    """Settings that the run was made with.

    Raises:
        AFAError: they cannot be read, or differ from those of the grid.
    """
    wanted = cell.run_settings()
    if wanted.is_searched:
        wanted = wanted.after_search(wanted.stages)
    has_images = Path(wanted.data.root, wanted.data.dataset).is_dir()
    if has_images:
        wanted = with_validation_folder(wanted)
    try:
        if read_text(folder.settings_log) == format_settings(wanted):
            return wanted  # parsing a config takes long, and a table has hundreds
    except (OSError, UnicodeDecodeError):
        raise AFAError(f"{folder.settings_log}: cannot be read") from None
    try:
        found = load_settings(folder.settings_log)
    except AFAError as error:
        raise AFAError(f"{folder.path}: {' '.join(error.lines)}") from None
    if not has_images:  # a report of runs that were made elsewhere
        wanted = replace(wanted, data=replace(wanted.data, validation_folder=found.data.validation_folder))
    different = differences(found, with_values_of(wanted, found))
    if different:
        raise AFAError(f"{folder.path}: made with other settings ({'; '.join(different)})")
    return found


def with_values_of(wanted: Settings, found: Settings) -> Settings:
    """``wanted`` with the values of alpha and learning rate in ``found``, if they are among those to try."""
    stages = tuple(
        next((trial for trial in stage.trials if _values(trial) == _values(other)), stage)
        for stage, other in zip(wanted.stages, found.stages, strict=False)
    )
    return replace(wanted, stages=stages) if len(wanted.stages) == len(found.stages) else wanted


def _values(stage: StageSettings) -> tuple[float, float]:
    return stage.alpha, stage.learning_rate
