"""``mode=predict``: classify images; results on the terminal and as CSV and JSON."""

from pathlib import Path

import torch

from afa.config.tasks import PredictSettings
from afa.data.images import describe_lost_pixels
from afa.data.walk import Walk, is_ignored
from afa.errors import ConfigError, DataError, printable
from afa.files import keep_old, sha256, write_json_list
from afa.inference.classifier import load_classifier, read_classes
from afa.results.journal import Progress, say
from afa.results.records import MostProbable, most_probable, write_most_probable
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
    paths, notes = find_images(settings.input)
    seen = classifier.preprocessing
    # What the network sees was decided when it was trained.
    notes += [line.partition(";")[0] for line in describe_lost_pixels(paths, seen.background, seen.grey_range)]
    names: list[str] = []
    batches: list[MostProbable] = []
    problems: list[str] = []
    with Progress("predicting", len(paths)) as bar:
        for batch in classifier.logits(paths, settings.batch_size):
            names += [printable(str(path)) for path in batch.paths]
            batches.append(most_probable(batch.logits))
            problems += map(printable, batch.problems)
            bar.update(len(batch.paths) + len(batch.problems))
    if not names:
        raise DataError([*problems, *notes, f"{settings.input}: no image could be used"])
    folder = Path(settings.output)
    found = MostProbable(*map(torch.cat, zip(*batches, strict=True)))
    document = {
        "checkpoint": str(classifier.path),
        "checkpoint_sha256": sha256(classifier.path),
        "skipped": problems,
    }
    top = ([{"class": label, "probability": p} for label, p in ranked] for ranked in found.named(classifier.classes))
    images = ({"path": name, "top": best} for name, best in zip(names, top, strict=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: {folder} cannot be created: {error.strerror}") from None
    files = folder / "predictions.csv", folder / "predictions.json"
    kept = [old.name for old in map(keep_old, files) if old]
    write_most_probable(files[0], {"path": names}, found, classifier.classes)
    write_json_list(files[1], document, "images", images)
    for name, ranked in zip(names[:_SHOWN], found.named(classifier.classes), strict=False):
        say(f"{name}: {', '.join(f'{label} {100 * value:.1f} %' for label, value in ranked)}")
    for line in [f"skipped {line}" for line in problems[:_SHOWN]] + notes:
        say(line)
    if more := max(len(names) - _SHOWN, 0) + max(len(problems) - _SHOWN, 0):
        say(f"and {more} more")
    older = f"; the older files are kept as {', '.join(kept)}" if kept else ""
    say(f"{len(names)} images, {len(problems)} skipped; {files[0].name} and {files[1].name} are in {folder}{older}")


def find_images(wanted: str) -> tuple[list[Path], list[str]]:
    """The images that a file name, a folder or a pattern selects, sorted by name; and lines about other files."""
    walk = Walk()
    found: set[Path] = set()
    matches, below = matching(wanted)
    for match in matches:
        ignored = {name for name in match.parts if is_ignored(name)} - set(Path(wanted).parts)
        if ignored:  # matched by an asterisk
            walk.ignored[f"in {', '.join(ignored)}"] += 1
        elif match.is_dir():
            for path in walk.find_images(match):
                inner = path.relative_to(match)
                if not below or any(one.match(below) for one in (inner, *inner.parents)):
                    found.add(path)
        elif (match == Path(wanted) and match.is_file()) or walk.accept(match):  # the only file is read in any case
            found.add(match)
    return sorted(found, key=str), [*walk.problems, *walk.describe(wanted)]
