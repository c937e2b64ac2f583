"""The search for alpha: train with each value on a part of the training images, score on the held-out rest.

The test images decide nothing here. A stage's values are tried with the alphas already chosen for the stages before
it. The score of a value is the held-out top-1 of its last epoch, which was not selected, as the mean over
``search.repeat`` seeds.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from afa.commands.algorithm import execute
from afa.config.settings import Settings
from afa.errors import AFAError, NotFiniteError
from afa.files import move_aside, write_json
from afa.results.journal import say
from afa.results.outcomes import Spread, format_table, spread
from afa.results.run_folder import RunFolder

HELD_OUT = 0.2
"""Fraction of the training images that is held out if ``validation_fraction`` is 0."""


def with_chosen_alphas(settings: Settings) -> Settings:
    """Search for the alphas of a run, in ``<run name>.search`` next to the run's folder.

    With ``overwrite`` the folders of an earlier run and its search are renamed first.
    """
    folder = RunFolder(settings.run_path)
    if settings.run.overwrite:
        for path in (folder.path, folder.search_folder):
            if path.exists():
                moved = move_aside(path)
                if not settings.run.quiet:
                    say(f"the previous folder is now {moved}")
    settings = replace(settings, run=replace(settings.run, overwrite=False, exp_id=settings.run_name))
    return choose_alphas(settings, folder.search_folder)


def choose_alphas(settings: Settings, folder: Path) -> Settings:
    """Try the values, each as a run in ``folder``, and write ``search.json`` there.

    Returns:
        the settings with the chosen alphas, and without held-out images.

    Raises:
        AFAError: no value of a stage ended with finite losses; or as ``execute``.
    """
    fraction = settings.data.validation_fraction or HELD_OUT
    outcomes: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    for index in range(len(settings.stages)):
        stage = settings.stages[index]
        if not stage.search_alpha:
            continue
        scores = {alpha: _try_alpha(settings, folder, index, alpha) for alpha in stage.search_alpha}
        finite = {alpha: score for alpha, score in scores.items() if score}
        if not finite:
            raise AFAError(f"search.alpha: no value of {list(scores)} ended with finite losses; try smaller ones")
        best = max(finite, key=lambda alpha: finite[alpha].mean)
        tried = [{"alpha": alpha, "held_out_top1": score and score._asdict()} for alpha, score in scores.items()]
        outcomes.append({"stage": index + 1, "method": stage.label, "alpha": best, "tried": tried})
        for alpha, score in scores.items():
            chosen = "chosen" if alpha == best else ""
            rows.append([f"{index + 1} ({stage.label})", f"{alpha:g}", str(score or "not finite"), chosen])
        settings = _replace_stage(settings, index, alpha=best, search_alpha=())
    write_json(folder / "search.json", {"selected_on": "held_out", "held_out_fraction": fraction, "stages": outcomes})
    if not settings.run.quiet:
        header = ["stage", "alpha", f"last top-1 % on held-out images ({fraction:g} of the training images)", ""]
        say(f"{format_table(header, rows)}\nnow training on all training images")
    return replace(settings, data=replace(settings.data, validation_fraction=0.0))


def _replace_stage(settings: Settings, index: int, **changes: Any) -> Settings:
    stages = list(settings.stages)
    stages[index] = replace(stages[index], **changes)
    return replace(settings, stages=tuple(stages))


def _try_alpha(settings: Settings, folder: Path, index: int, alpha: float) -> Spread | None:
    """Held-out top-1 after training up to the stage at ``index``; None if a loss, gradient or weight is not finite."""
    fraction = settings.data.validation_fraction or HELD_OUT
    trial = _replace_stage(settings, index, alpha=alpha, search_alpha=())
    name = f"stage_{index + 1}_alpha_{alpha:g}"
    trial = replace(
        trial,
        data=replace(settings.data, validation_fraction=fraction),
        stages=trial.stages[: index + 1],
        run=replace(settings.run, outpath=str(folder), exp_id=name, repeat=settings.run.search_repeat),
    )
    try:
        result = execute(trial)
    except NotFiniteError as error:
        if not settings.run.quiet:
            say(f"{name}: {error}")
        return None
    return spread([stages[-1]["last"]["selection_top1"] for stages in result["repeats"]])
