"""The search for alpha: each value on held-out training images, the best then on all of them.

The test images decide nothing here. A stage's values are tried with the alphas already chosen for the stages
before it; a value's figure is the held-out top-1 of its last epoch, which no epoch was selected for, as
mean over ``search.repeat`` seeds.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from afa.config.launch import read_launch
from afa.config.settings import Settings
from afa.errors import AFAError, NotFiniteError
from afa.report.page import report_on
from afa.results.figures import Spread, format_table, spread
from afa.results.records import move_aside, write_json
from afa.training import algorithm
from afa.training.dry_run import dry_run

HELD_OUT = 0.2
"""Part of the training images that is held out where ``validation_fraction`` names none."""


def run(settings: Settings, command: str = "") -> dict[str, Any]:
    """What the settings of a run ask for: a dry run, or the search for alpha, the run, and its page.

    Returns:
        as ``algorithm.run``; of a dry run the estimate.
    """
    if settings.run.dry_run:
        return dry_run(settings).to_dict()
    if is_searched(settings):
        settings = _search(settings)
    result = algorithm.run(settings, command)
    if read_launch().rank == 0:
        report_on(settings)
    return result


def _search(settings: Settings) -> Settings:
    """The settings with the alphas that are best."""
    folder = Path(settings.run.outpath) / settings.run_name
    if settings.run.overwrite and folder.exists():
        print(f"the run that was there is now {move_aside(folder)}")
    settings = replace(settings, run=replace(settings.run, overwrite=False, exp_id=settings.run_name))
    return choose_alphas(settings, folder.with_name(f"{folder.name}.search"))


def is_searched(settings: Settings) -> bool:
    """Whether an alpha is still to be chosen."""
    return any(stage.search_alpha for stage in settings.stages)


def choose_alphas(settings: Settings, folder: Path) -> Settings:
    """Try the values, each as a run in ``folder``, and write ``search.json`` there.

    Returns:
        the settings with the alphas chosen, and with no image held out.

    Raises:
        AFAError: no value of a stage came to an end with finite losses; or as ``algorithm.run``.
    """
    outcomes = []
    for index in range(len(settings.stages)):
        stage = settings.stages[index]
        if not stage.search_alpha:
            continue
        figures = {alpha: _try(_trial(settings, folder, index, alpha)) for alpha in stage.search_alpha}
        finite = {alpha: figure for alpha, figure in figures.items() if figure}
        if not finite:
            raise AFAError(f"search.alpha: no value of {list(figures)} ended with finite losses; try smaller ones")
        best = max(finite, key=lambda alpha: finite[alpha].mean)
        outcomes.append(_outcome(index, stage.label, figures, best))
        chosen = replace(stage, alpha=best, search_alpha=())
        settings = replace(settings, stages=(*settings.stages[:index], chosen, *settings.stages[index + 1 :]))
    fraction = settings.data.validation_fraction or HELD_OUT
    write_json(folder / "search.json", {"selected_on": "held_out", "held_out_fraction": fraction, "stages": outcomes})
    _say(outcomes, fraction)
    return replace(settings, data=replace(settings.data, validation_fraction=0.0))


def _trial(settings: Settings, folder: Path, index: int, alpha: float) -> Settings:
    """The run that tries ``alpha`` in the stage at ``index``; no stage after it."""
    fraction = settings.data.validation_fraction or HELD_OUT
    tried = replace(settings.stages[index], alpha=alpha, search_alpha=())
    name = f"stage_{index + 1}_alpha_{alpha:g}"
    return replace(
        settings,
        data=replace(settings.data, validation_fraction=fraction),
        stages=(*settings.stages[:index], tried),
        run=replace(settings.run, outpath=str(folder), exp_id=name, repeat=settings.run.search_repeat),
    )


def _try(trial: Settings) -> Spread | None:
    """Held-out top-1 of the last epoch; None where a loss, gradient or weight came out as no number."""
    try:
        result = algorithm.run(trial)
    except NotFiniteError as error:
        print(f"{trial.run_name}: {error}", flush=True)
        return None
    return spread([stages[-1]["last"]["selection_top1"] for stages in result["repeats"]])


def _outcome(index: int, label: str, figures: dict[float, Spread | None], best: float) -> dict[str, Any]:
    tried = [{"alpha": alpha, "held_out_top1": f and f._asdict()} for alpha, f in figures.items()]
    return {"stage": index + 1, "method": label, "alpha": best, "tried": tried}


def _say(outcomes: list[dict[str, Any]], fraction: float) -> None:
    rows = []
    for outcome in outcomes:
        for tried in outcome["tried"]:
            figure = tried["held_out_top1"]
            mark = "chosen" if tried["alpha"] == outcome["alpha"] else ""
            text = str(Spread(**figure)) if figure else "not finite"
            rows.append([f"{outcome['stage']} ({outcome['method']})", f"{tried['alpha']:g}", text, mark])
    header = ["stage", "alpha", f"last top-1 % on held-out images ({fraction:g} of the training images)", ""]
    print(f"{format_table(header, rows)}\nnow on all training images", flush=True)
