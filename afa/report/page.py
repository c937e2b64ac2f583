"""``report.html``: one page that says what a run did and how to do it again, and needs no other file."""

import os
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from afa.config.layout import BEST, RESULT
from afa.config.settings import Settings
from afa.errors import AFAError
from afa.inference.attention_maps import attention_to, centre_views
from afa.inference.classifier import load_classifier
from afa.method.catalogue import METHODS
from afa.report.attention import attention_rows
from afa.report.charts import HEIGHT, WIDTH, stage_charts
from afa.report.confusion import Confusion, Pair, read_predictions
from afa.report.matrix import draw_matrix
from afa.report.pictures import data_uri, spread, thumbnail
from afa.report.record import RunRecord, StageRecord, read_run
from afa.results.figures import format_seconds
from afa.results.records import write_text

REPORT = "report.html"
_PAIRS = 8  # of classes that are confused, and examples of each
_EXAMPLES = 4
_SIDE = 128  # pixels of an example
_IMAGES = 4  # whose attention is shown
_ATTENTION = {
    "spatial": "Attention over positions: where it is bright, the target is held to the source (1: uniform)",
    "channel": "Attention over channels, the largest first; the line is uniform attention, entropy 1",
}
_SELECTION = {
    "test": "The best epoch was chosen on the test images themselves, as in the paper: its accuracy is too high by "
    "what choosing gains. The last epoch was not chosen at all.",
    "held_out": "The best epoch was chosen on held-out training images: its accuracy on the test images is an honest "
    "one. The last epoch was not chosen at all.",
    "": "The checkpoint does not say on which images it was chosen.",
}


def report_on(settings: Settings) -> None:
    """Write the page of a run that is finished, if it is wanted and not there already."""
    folder = Path(settings.run.outpath) / settings.run_name
    path = folder / REPORT
    if settings.run.report and not (path.exists() and path.stat().st_mtime >= (folder / RESULT).stat().st_mtime):
        written = write_report(folder)
        if not settings.run.quiet:
            print(f"report: {written}")


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    Raises:
        AFAError: a file of the run is altered, or the page cannot be written.
    """
    path = folder / REPORT
    write_text(path, render(read_run(folder)))
    return path


def render(run: RunRecord) -> str:
    """The page as text; all that a file, a class or a setting is named is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    here = files("afa.report")
    template = environment.from_string(here.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    style = here.joinpath("style.css").read_text(encoding="utf-8")
    text = template.render(page=_page(run), style=style, width=WIDTH, height=HEIGHT)
    # A folder's name may hold bytes that are no text: the page would not be readable as UTF-8.
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _page(run: RunRecord) -> dict[str, Any]:
    confusion = read_predictions(run.last_folder / "predictions.csv")
    tests = [prediction.path for prediction in confusion.predictions]
    environment = dict(run.result["environment"])
    command = environment.pop("command", "")
    again = f"python main.py {shlex.quote(os.fspath(run.folder / 'settings.log'))} exp_id=again"
    return {
        "name": run.result["run"],
        "lead": _lead(run, confusion),
        "headline": _headline(run),
        "selection": _SELECTION.get(run.result["selected_on"], ""),
        "results": _results(run),
        "stages": [_stage(run, stages, tests) for stages in zip(*run.repeats, strict=True)],
        "whose": _whose(run),
        "confusion": draw_matrix(confusion),
        "pairs": [_pair(pair) for pair in confusion.most_confused(_PAIRS)],
        "per_class": [(c.name, c.images, c.correct, f"{c.top1:.2f}") for c in confusion.per_class()],
        "environment": list(environment.items()),
        "command": command or again,
        "again": again,
        "settings": run.settings_text,
    }


def _lead(run: RunRecord, confusion: Confusion) -> str:
    data, backbone = run.settings.data, run.settings.backbone
    what = " then ".join(METHODS[stage.method].label for stage in run.settings.stages) or "evaluation"
    return (
        f"{what}, {backbone.name}, {data.dataset}: {len(confusion.classes)} classes, "
        f"{len(confusion.predictions)} test images, {data.image_size} pixels"
    )


def _headline(run: RunRecord) -> list[tuple[str, str]]:
    """Name -> figure, the largest on the page."""
    result = run.result
    if not run.repeats:
        return [("top-1", f"{result['top1']:.2f} %"), ("top-5", f"{result['top5']:.2f} %")]
    shown = []
    for key, name in (("last_test_top1", "top-1, last epoch"), ("best_test_top1", "top-1, best epoch")):
        spread = result[key]
        more = f" ± {spread['deviation']:.2f}" if spread["n"] > 1 else ""
        shown.append((name, f"{spread['mean']:.2f}{more} %"))
    return shown


def _results(run: RunRecord) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one a stage and repeat, or the evaluation's."""
    if not run.repeats:
        result = run.result
        row = [result["checkpoint"], str(result["epoch"]), f"{result['top1']:.2f}", f"{result['top5']:.2f}"]
        return ["checkpoint", "epoch", "top-1 %", "top-5 %", "cross-entropy"], [[*row, f"{result['loss']:.4f}"]]
    header = ["stage", "seed", "epochs", "last top-1 %", "last top-5 %", "best top-1 %", "at epoch", "images/s", "time"]
    return header, [_result_row(stage) for stages in run.repeats for stage in stages]


def _result_row(stage: StageRecord) -> list[str]:
    result = stage.result
    return [
        result.method,
        str(result.seed),
        str(result.epochs),
        f"{result.last.test_top1:.2f}",
        f"{result.last.test_top5:.2f}",
        f"{result.best.test_top1:.2f}",
        str(result.best.epoch),
        f"{result.images_per_second:.0f}",
        format_seconds(result.seconds),
    ]


def _stage(run: RunRecord, stages: Sequence[StageRecord], tests: Sequence[Path]) -> dict[str, Any]:
    """The curves of a stage over all repeats, and the attention of the first one to a few test images."""
    result = stages[0].result
    histories = [stage.history for stage in stages if stage.history]
    attention, note = _attention(run, stages[0].folder / BEST, tests)
    return {
        "title": result.method,
        "start": f"{result.epochs} epochs, from {result.start}{' (first repeat)' if stages[1:] else ''}",
        "charts": stage_charts(histories, result.selected_on) if histories else [],
        "attention": attention,
        "note": note,
    }


def _attention(run: RunRecord, path: Path, tests: Sequence[Path]) -> tuple[list[dict[str, Any]], str]:
    """Rows of pictures, and a line where there can be none."""
    try:
        classifier = load_classifier(path, gpu_id=run.settings.run.gpu_id)
        pictures, views = centre_views(classifier, spread(tests, _IMAGES))
        rows = attention_rows(pictures, attention_to(classifier, views))
    except AFAError as error:  # images or the stage before are gone: no reason to go without the rest of the page
        return [], f"No pictures of the attention: {error}."
    shown = [
        {
            "title": _ATTENTION[kind],
            "rows": [[{"src": data_uri(image, "JPEG"), "caption": said} for image, said in row] for row in of_kind],
        }
        for kind, of_kind in rows.items()
    ]
    return shown, ""


def _whose(run: RunRecord) -> str:
    """Which checkpoint's mistakes are shown."""
    if not run.repeats:
        return "Of the checkpoint evaluated."
    result = run.repeats[0][-1].result
    repeat = ", first repeat" if len(run.repeats) > 1 else ""
    return f"Of the best epoch of {result.method}{repeat}: epoch {result.best.epoch}, seed {result.seed}."


def _pair(pair: Pair) -> dict[str, Any]:
    pictures = [
        {"src": thumbnail(image.path, _SIDE), "caption": f"{image.path.name}, {100 * image.probability:.0f} % sure"}
        for image in pair.images[:_EXAMPLES]
    ]
    return {
        "true": pair.true,
        "predicted": pair.predicted,
        "count": len(pair.images),
        "of": pair.of,
        "pictures": pictures,
    }
