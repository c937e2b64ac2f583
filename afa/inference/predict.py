"""``mode=predict``: the likeliest classes of images, on the terminal and as CSV and JSON."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from afa.config.layout import matching
from afa.config.tasks import PredictSettings
from afa.errors import ConfigError, DataError, printable
from afa.inference.classifier import Classifier, Prediction, load_classifier, read_classes
from afa.networks.weights import sha256
from afa.results.journal import Progress
from afa.results.records import keep_old, write_json, write_text

_SHOWN = 20  # images on the terminal; all are in the files


def predict_files(settings: PredictSettings) -> None:
    """Classify what ``settings.input`` means; name what is no image and go on without it.

    Raises:
        AFAError: see its subclasses; also where no image could be used.
    """
    classifier = load_classifier(
        settings.pre_trained_path,
        outpath=settings.outpath,
        gpu_id=settings.gpu_id,
        base_model_name=settings.base_model_name,
        classes=read_classes(settings.classes_file),
    )
    paths = find_images(settings.input)
    predictions, bad = _classify(classifier, paths, settings.batch_size)
    if not predictions:
        raise DataError([*bad, f"{settings.input}: no image could be used"])
    _show(predictions, bad)
    folder = Path(settings.output)
    moved = _write(folder, classifier, predictions, bad)
    kept = f"; what was there is kept as {', '.join(path.name for path in moved)}" if moved else ""
    print(f"{len(predictions)} images, {len(bad)} skipped; predictions.csv and predictions.json are in {folder}{kept}")


def find_images(wanted: str) -> list[Path]:
    """The files that a file's name, a folder or a pattern means, in the order of their names; hidden ones left out.

    Whether a file is an image is told by its content when it is read.
    """
    found = {file for one in matching(wanted) for file in (_files_in(one) if one.is_dir() else [one])}
    return sorted(found, key=str)


def _files_in(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return found


def _classify(classifier: Classifier, paths: Sequence[Path], batch_size: int) -> tuple[list[Prediction], list[str]]:
    predictions: list[Prediction] = []
    bad: list[str] = []
    with Progress("predicting", len(paths)) as bar:
        for part in classifier.logits(paths, batch_size):
            predictions += classifier.name(part.paths, part.logits)
            bad += part.bad
            bar.update(len(part.paths) + len(part.bad))
    return predictions, bad


def _show(predictions: Sequence[Prediction], bad: Sequence[str]) -> None:
    for prediction in predictions[:_SHOWN]:
        guesses = zip(prediction.classes, prediction.probabilities, strict=True)
        text = ", ".join(f"{name} {100 * value:.1f} %" for name, value in guesses)
        tqdm.write(printable(f"{prediction.path}: {text}"))
    for line in bad[:_SHOWN]:
        tqdm.write(printable(f"skipped {line}"))
    more = max(len(predictions) - _SHOWN, 0) + max(len(bad) - _SHOWN, 0)
    if more:
        tqdm.write(f"and {more} more")


def _write(folder: Path, classifier: Classifier, predictions: Sequence[Prediction], bad: Sequence[str]) -> list[Path]:
    """Both files; returns where older ones were moved to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: {folder} cannot be made: {error.strerror}") from None
    table, document = folder / "predictions.csv", folder / "predictions.json"
    moved = [place for place in map(keep_old, (table, document)) if place]
    write_text(table, _csv(predictions))
    write_json(
        document,
        {
            "checkpoint": str(classifier.path),
            "checkpoint_sha256": sha256(classifier.path),
            "images": [
                {
                    "path": printable(str(path)),
                    "top": [
                        {"class": name, "probability": value}
                        for name, value in zip(classes, probabilities, strict=True)
                    ],
                }
                for path, classes, probabilities in predictions
            ],
            "skipped": [printable(line) for line in bad],
        },
    )
    return moved


def _csv(predictions: Sequence[Prediction]) -> str:
    """A row an image, in the columns of an evaluation's ``predictions.csv``."""
    ranks = range(1, len(predictions[0].classes) + 1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *(name for rank in ranks for name in (f"top{rank}", f"probability{rank}"))])
    for path, classes, probabilities in predictions:
        guesses = [cell for one, p in zip(classes, probabilities, strict=True) for cell in (one, f"{p:.6f}")]
        writer.writerow([printable(str(path)), *guesses])
    return text.getvalue()
