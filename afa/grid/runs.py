"""What there is of a grid's runs: read from their folders, whatever state these are in."""

import json
import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from afa.config.grid import Cell
from afa.config.hocon import format_settings, load_settings
from afa.config.layout import RESULT, SETTINGS
from afa.config.settings import Settings, differences
from afa.errors import AFAError
from afa.method.catalogue import METHODS
from afa.results.figures import StageResult


class State(StrEnum):
    """How far a run is. ``BROKEN`` cannot be used as it stands: torn, not finite, or made with other settings."""

    DONE = "done"
    PARTIAL = "partial"
    MISSING = "missing"
    BROKEN = "broken"


class Run(NamedTuple):
    """A cell and what its folder holds.

    ``stages``, ``data`` and ``alphas`` (of each stage that has one, as trained with) of a run that is done;
    ``problem`` of one that is broken.
    """

    cell: Cell
    state: State
    stages: tuple[StageResult, ...] = ()
    data: dict[str, Any] | None = None
    problem: str = ""
    alphas: str = ""


def read_run(cell: Cell) -> Run:
    """Never raises for what a folder holds."""
    folder = cell.folder
    if not (folder / SETTINGS).exists():
        return Run(cell, State.MISSING)
    try:
        made_with = _made_with(folder / SETTINGS, cell)
    except AFAError as error:
        return Run(cell, State.BROKEN, problem=f"{folder}: {' '.join(error.lines)}")
    path = folder / RESULT
    if not path.exists():
        return Run(cell, State.PARTIAL)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(StageResult.from_dict(stage) for stage in result["repeats"][0])
        finite = all(math.isfinite(score.test_top1) for stage in stages for score in (stage.best, stage.last))
        data = dict(result["data"])
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return Run(cell, State.BROKEN, problem=f"{path}: altered or torn; remove it and run the grid again")
    if not stages or not finite:
        return Run(cell, State.BROKEN, problem=f"{path}: accuracies that are not finite")
    alphas = [stage.alpha for stage in made_with.stages if METHODS[stage.method].needs_alpha]
    return Run(cell, State.DONE, stages, data, alphas=" / ".join(f"{alpha:g}" for alpha in alphas))


def _made_with(path: Path, cell: Cell) -> Settings:
    """The settings of the run in the folder.

    Raises:
        AFAError: they cannot be read, or differ from those of the grid.
    """
    wanted = cell.settings()
    try:
        if path.read_text(encoding="utf-8") == format_settings(wanted):
            return wanted  # reading a config takes a tenth of a second, and a table has hundreds
    except (OSError, UnicodeDecodeError):
        raise AFAError(f"its {path.name} cannot be read") from None
    found = load_settings(path)
    different = differences(found, _as_chosen(wanted, found) if cell.is_searched else wanted)
    if different:
        raise AFAError(f"made with other settings ({'; '.join(different)})")
    return found


def _as_chosen(wanted: Settings, found: Settings) -> Settings:
    """The settings after a search that chose the alphas found, if they are among those that were to be tried."""
    stages = tuple(
        replace(stage, alpha=other.alpha, search_alpha=()) if other.alpha in stage.search_alpha else stage
        for stage, other in zip(wanted.stages, found.stages, strict=False)
    )
    return replace(wanted, stages=stages, data=replace(wanted.data, validation_fraction=0.0))
