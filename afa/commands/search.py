"""The search for alpha and the learning rate: train with each value, and evaluate it on held-out images.

The test images are not used. The stages are searched in their order. Each combination of a stage's values is a
run of this stage alone, which starts from the run of the best combination of the stage before. The score of a
combination is the held-out top-1 of its last epoch, which was not selected, as the mean over ``search.repeat`` seeds.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from afa.commands.algorithm import execute
from afa.commands.image_reader import Decoded, with_validation_folder
from afa.commands.jobs import move_old, train_repeats
from afa.config.settings import Settings, StageSettings
from afa.errors import AFAError, NotFiniteError
from afa.files import write_json
from afa.machine.pool import Pool
from afa.results.journal import say
from afa.results.outcomes import Spread, format_table, spread
from afa.results.run_folder import RunFolder

HELD_OUT = 0.2
"""Fraction of the training images that is held out without ``validation_fraction`` and validation folder."""


def with_chosen_values(settings: Settings, pool: Pool) -> Settings:
    """Search for the values of a run, in ``<run name>.search`` next to the run's folder.

    With ``overwrite`` the folders of an earlier run and its search are renamed first.
    """
    folder = RunFolder(settings.run_path)
    settings = move_old(settings, folder.path, folder.search_folder)
    settings = replace(settings, run=replace(settings.run, exp_id=settings.run_name))
    return choose_values(settings, folder.search_folder, pool)


class Trial(NamedTuple):
    """A run with one combination of the values of a stage; ``score`` is None if its losses were not finite."""

    name: str
    stage: StageSettings
    score: Spread | None


def choose_values(settings: Settings, folder: Path, pool: Pool) -> Settings:
    """Try the values, each combination as a run in ``folder`` below ``outpath``, and write ``search.json`` there.

    The runs of the combinations of one stage are calls of ``pool``.

    Returns:
        the settings with the chosen values, and without held-out training images.

    Raises:
        AFAError: no combination of a stage ended with finite losses; or as ``execute``.
    """
    settings = with_validation_folder(settings)
    if not (settings.data.validation_folder or settings.data.validation_fraction):
        settings = replace(settings, data=replace(settings.data, validation_fraction=HELD_OUT))
    run = replace(settings.run, exp_id=os.path.relpath(folder, settings.run.outpath), repeat=settings.run.search_repeat)
    decoded: Decoded = {}
    chosen, searched = list(settings.stages), dict[int, list[Trial]]()
    for index, stage in enumerate(settings.stages):
        if not any(later.is_searched for later in settings.stages[index:]):
            break
        trial = partial(_try, replace(settings, run=run), index, stage, pool=pool, decoded=decoded)
        trials = pool.map("search", trial, stage.trials)
        best = _best(trials)
        chosen[index], run = best.stage, replace(run, pre_trained_path=f"{run.exp_id}/{best.name}")
        if stage.is_searched:
            searched[index] = trials
    _write_outcome(settings, folder, searched)
    return settings.after_search(chosen)


def _try(
    settings: Settings, index: int, stage: StageSettings, values: StageSettings, *, pool: Pool, decoded: Decoded
) -> Trial:
    """Train the stage at ``index`` with one combination of its values."""
    alpha = f"_alpha_{values.alpha:g}" if stage.search_alpha else ""
    name = f"stage_{index + 1}{alpha}" + (f"_lr_{values.learning_rate:g}" if stage.search_lr else "")
    run = replace(settings.run, exp_id=f"{settings.run.exp_id}/{name}")
    try:
        settings = train_repeats(replace(settings, stages=(values,), run=run), pool)
        result = pool.call(f"{values.label} {name}", partial(execute, decoded=decoded), settings)
    except NotFiniteError as error:
        if not run.quiet:
            say(f"{name}: {error}")
        return Trial(name, values, None)
    return Trial(name, values, spread([stages[-1]["last"]["selection_top1"] for stages in result["repeats"]]))


def _best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest score; of equal ones the first."""
    best = max(trials, key=lambda trial: trial.score.mean if trial.score else -math.inf)
    if best.score is None:
        names = ", ".join(trial.name for trial in trials)
        raise AFAError(f"search: no run ended with finite losses ({names}); try smaller values")
    return best


def _write_outcome(settings: Settings, folder: Path, searched: Mapping[int, Sequence[Trial]]) -> None:
    """Write ``search.json``, and print its content as a table."""
    stages: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    for index, trials in searched.items():
        best, label = _best(trials), settings.stages[index].label
        tried = [{**_values(trial), "held_out_top1": trial.score and trial.score._asdict()} for trial in trials]
        stages.append({"stage": index + 1, "method": label, **_values(best), "tried": tried})
        for trial in trials:
            values = [f"{value:g}" for value in _values(trial).values()]
            chosen = "yes" if trial is best else ""
            rows.append([f"{index + 1} ({label})", *values, str(trial.score or "not finite"), chosen])
    fraction, images = settings.data.validation_fraction, settings.data.validation_folder
    outcome = {"selected_on": "held_out", "held_out_fraction": fraction, "held_out_folder": images, "stages": stages}
    write_json(folder / "search.json", outcome)
    if not settings.run.quiet:
        images = images or f"{fraction:g} of the training images"
        table = format_table(["stage", "alpha", "lr", "held-out top-1 %", "chosen"], rows)
        choice = "; ".join(f"{one['method']} alpha = {one['alpha']:g}, lr = {one['lr']:g}" for one in stages)
        say(f"{table}\nheld-out images: {images}, after the last epoch")
        say(f"chosen: {choice}; now training on all training images")


def _values(trial: Trial) -> dict[str, float]:
    return {"alpha": trial.stage.alpha, "lr": trial.stage.learning_rate}
