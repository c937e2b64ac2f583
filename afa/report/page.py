"""Writes ``report.html``: a self-contained page with the results, plots and settings of a finished run."""

import base64
import io
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from afa.commands.finished_run import FinishedRun, FinishedStage, read_finished_run
from afa.config.settings import Settings
from afa.errors import AFAError
from afa.files import write_text
from afa.inference.classifier import load_classifier
from afa.inference.trained_attention import attention_to, centre_views
from afa.method.catalogue import METHODS
from afa.report import plots
from afa.report.confusion import read_predictions
from afa.results.journal import say
from afa.results.outcomes import Spread, format_seconds
from afa.results.run_folder import RunFolder

_PAIRS, _EXAMPLES = 8, 4  # confused pairs of classes, and images of each
_THUMBNAIL, _ATTENTION_SIDE = 128, 160  # pixels
_IMAGES = 4  # of which the attention is shown
ATTENTION = {
    "spatial": (
        "Attention over positions",
        "The colours range from 0 to 2 times the uniform weight. The numbers are the lowest and the highest weight, as "
        "multiples of the uniform weight. At bright positions, the loss keeps the target close to the source.",
    ),
    "channel": (
        "Attention over channels",
        "The weights of the channels in descending order, as bars from 0 to 2 times the uniform weight (the line). The "
        "numbers are the lowest and the highest weight, as multiples of the uniform weight, and the entropy, which is "
        "1 for uniform weights. Higher bars are cut.",
    ),
}
"""Kind of an attention -> title and legend of its images."""
_SELECTION = {
    "test": "The best epoch was selected on the test images themselves, as in the paper, so its accuracy is too high. "
    "The last epoch was not selected.",
    "held_out": "The best epoch was selected on held-out images, so its accuracy on the test images is not "
    "biased. The last epoch was not selected.",
    "": "The checkpoint does not state on which images it was selected.",
}


def report_on(settings: Settings) -> None:
    """Write the page of a finished run if it does not exist or is older than the results."""
    folder = RunFolder(settings.run_path)
    page = folder.report_html
    if not (page.exists() and page.stat().st_mtime >= folder.result.stat().st_mtime):
        write_report(folder.path)
        if not settings.run.quiet:
            say(f"report: {page}")


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    Raises:
        AFAError: a file of the run is missing or damaged, or the page cannot be written.
    """
    run = read_finished_run(folder)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template, style = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.html.jinja", "style.css"))
    text = environment.from_string(template).render(page=_contents(run), style=style)
    write_text(run.folder.report_html, text)
    return run.folder.report_html


def _contents(run: FinishedRun) -> dict[str, Any]:
    """Values of the template."""
    result, data = run.result, run.settings.data
    environment = dict(result["environment"])
    reproduce = f"python main.py {shlex.quote(os.fspath(run.folder.settings_log))} exp_id=again"
    command = environment.pop("command", "") or reproduce
    if run.repeats:
        last = run.repeats[0][-1].result
        name = f"{last.method}, epoch {last.best.epoch}, seed {last.seed}"
        headline = {
            f"{name} %, {which} epoch": str(Spread(**result[key]))
            for which in ("last", "best")
            for name, metric in (("top-1", "top1"), ("balanced", "balanced"))
            if result.get(key := f"{which}_test_{metric}")  # runs of version 0.1.0 have no balanced accuracy
        }
        results = [
            {
                "stage": stage.method,
                "seed": stage.seed,
                "epochs": stage.epochs,
                "last top-1 %": f"{stage.last.test_top1:.2f}",
                "last top-5 %": f"{stage.last.test_top5:.2f}",
                "last balanced %": _percent(stage.last.test_balanced),
                "best top-1 %": f"{stage.best.test_top1:.2f}",
                "best balanced %": _percent(stage.best.test_balanced),
                "at epoch": stage.best.epoch,
                "images/s": f"{stage.images_per_second:.0f}",
                "time": format_seconds(stage.seconds),
            }
            for repeat in run.repeats
            for stage in (finished.result for finished in repeat)
        ]
    else:
        name = str(result["checkpoint"])
        metrics = {"top-1 %": "top1", "top-5 %": "top5", "balanced %": "balanced"}
        headline = {name: _percent(result.get(key)) for name, key in metrics.items()}
        results = [{"checkpoint": name, "epoch": result["epoch"], **headline, "cross-entropy": f"{result['loss']:.4f}"}]
    colours = data.background, data.grey_range
    confusion = read_predictions(run.last_stage.predictions_csv)
    shown = evenly_spaced([image.path for image in confusion.predictions], _IMAGES)
    methods = " then ".join(METHODS[stage.method].label for stage in run.settings.stages)
    return {
        "name": result["run"],
        "summary": f"{methods or 'evaluation'}, {run.settings.backbone.name}, {data.dataset}: "
        f"{len(confusion.totals)} classes, {len(confusion.predictions)} test images, {data.image_size} pixels",
        "headline": headline,
        "selection": _SELECTION.get(result["selected_on"], ""),
        "results": results,
        "stages": [_stage(repeats, run.settings.run.gpu_id, shown) for repeats in zip(*run.repeats, strict=True)],
        "checkpoint": name,
        "matrix": plots.to_svg(plots.confusion_matrix(confusion), "confusion matrix"),
        "pairs": [
            (images, [(image, _data_uri(image.read(_THUMBNAIL, *colours))) for image in images[:_EXAMPLES]])
            for images in confusion.most_confused(_PAIRS)
        ],
        "totals": confusion.totals,
        "per_class": [
            {
                "class": c.name,
                "test images": c.images,
                "correct": c.correct,
                "recall %": _percent(c.recall),
                "precision %": _percent(c.precision),
                "F1 %": _percent(c.f1),
            }
            for c in confusion.per_class()
        ],
        "command": command,
        "reproduce": reproduce,
        "environment": environment,
        "settings": run.settings_text,
    }


def _stage(repeats: Sequence[FinishedStage], gpu_id: str, images: Sequence[Path]) -> dict[str, Any]:
    """Values of the template for one stage: curves of all repeats, attention of the first repeat to ``images``."""
    result = repeats[0].result
    histories = [history for repeat in repeats if (history := repeat.history)]
    curves = plots.stage_curves(histories, result.selected_on) if histories else {}
    attention, note = {}, ""
    try:
        classifier = load_classifier(repeats[0].folder.best, gpu_id=gpu_id)
        centres, views = centre_views(classifier, images)
        attention = plots.attention_rows(centres, attention_to(classifier, views))
    except AFAError as error:  # the images or the weights of the source are missing: the rest of the page remains
        note = f"No images of the attention: {error}."
    return {
        "title": result.method,
        "start": f"{result.epochs} epochs, from {result.start}{' (first repeat)' if repeats[1:] else ''}",
        "curves": [plots.to_svg(figure, title) for title, figure in curves.items()],
        "attention": [
            (*ATTENTION[kind], [[(image, _data_uri(_smaller(image.image))) for image in row] for row in rows])
            for kind, rows in attention.items()
        ],
        "note": note,
    }


def evenly_spaced(paths: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` of the paths, evenly spaced; in a sorted image folder they are of as many classes."""
    count = min(count, len(paths))
    return [paths[len(paths) * index // count] for index in range(count)]


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _smaller(image: Image.Image) -> Image.Image:
    return image.resize((_ATTENTION_SIDE, _ATTENTION_SIDE), Image.Resampling.BOX)


def _data_uri(image: Image.Image | None) -> str:
    if not image:
        return ""
    buffer = io.BytesIO()
    kind = "PNG" if image.mode == "RGBA" else "JPEG"
    image.save(buffer, kind, quality=80, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
