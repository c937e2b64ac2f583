"""``mode=predict``: classify images; results on the terminal and as CSV and JSON."""

import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from afa.config.tasks import PredictSettings
from afa.errors import ConfigError, DataError, printable
from afa.files import keep_old, sha256, write_csv, write_json
from afa.inference.classifier import Classifier, Prediction, load_classifier, read_classes
from afa.results.journal import Progress
from afa.results.run_folder import matching

_SHOWN = 20  # images on the terminal; the files contain all of them


def predict_files(settings: PredictSettings) -> None:
    """Classify the images that ``settings.input`` selects; print and skip files that cannot be used.

    Raises:
        AFAError: see its subclasses; also if no image can be used.
    """
    classifier = load_classifier(
        settings.pre_trained_path,
        outpath=settings.outpath,
        gpu_id=settings.gpu_id,
        base_model_name=settings.base_model_name,
        classes=read_classes(settings.classes_file),
    )
    paths = find_images(settings.input)
    predictions: list[Prediction] = []
    problems: list[str] = []
    with Progress("predicting", len(paths)) as bar:
        for batch in classifier.logits(paths, settings.batch_size):
            predictions += classifier.to_predictions(batch)
            problems += batch.problems
            bar.update(len(batch.paths) + len(batch.problems))
    if not predictions:
        raise DataError([*problems, f"{settings.input}: no image could be used"])
    for path, classes, probabilities in predictions[:_SHOWN]:
        ranked = zip(classes, probabilities, strict=True)
        tqdm.write(printable(f"{path}: {', '.join(f'{name} {100 * value:.1f} %' for name, value in ranked)}"))
    for line in problems[:_SHOWN]:
        tqdm.write(printable(f"skipped {line}"))
    if more := max(len(predictions) - _SHOWN, 0) + max(len(problems) - _SHOWN, 0):
        tqdm.write(f"and {more} more")
    folder = Path(settings.output)
    kept = _write(folder, classifier, predictions, problems)
    older = f"; the older files are kept as {', '.join(kept)}" if kept else ""
    done = f"{len(predictions)} images, {len(problems)} skipped"
    print(f"{done}; predictions.csv and predictions.json are in {folder}{older}")


def _write(
    folder: Path, classifier: Classifier, predictions: Sequence[Prediction], problems: Sequence[str]
) -> list[str]:
    """Write both files; return the new names of older ones."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: {folder} cannot be created: {error.strerror}") from None
    table, document = folder / "predictions.csv", folder / "predictions.json"
    kept = [old.name for old in map(keep_old, (table, document)) if old]
    ranks = range(1, len(predictions[0].classes) + 1)
    columns = [name for rank in ranks for name in (f"top{rank}", f"probability{rank}")]
    rows, images = [], []
    for path, classes, probabilities in predictions:
        ranked = list(zip(classes, probabilities, strict=True))
        rows.append([printable(str(path)), *(cell for name, p in ranked for cell in (name, f"{p:.6f}"))])
        top = [{"class": name, "probability": p} for name, p in ranked]
        images.append({"path": printable(str(path)), "top": top})
    write_csv(table, ["path", *columns], rows)
    checkpoint = {"checkpoint": str(classifier.path), "checkpoint_sha256": sha256(classifier.path)}
    write_json(document, {**checkpoint, "images": images, "skipped": [printable(line) for line in problems]})
    return kept


def find_images(wanted: str) -> list[Path]:
    """Files that a file name, a folder or a pattern selects, sorted by name, without hidden ones.

    Files are selected whatever their names; only reading them shows which are images.
    """
    found = set()
    for match in matching(wanted):
        if not match.is_dir():
            found.add(match)
        for parent, folders, files in os.walk(match):  # nothing for a file
            folders[:] = [name for name in folders if not name.startswith(".")]
            found |= {Path(parent, name) for name in files if not name.startswith(".")}
    return sorted(found, key=str)
