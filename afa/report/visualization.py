"""``mode=visualize``: curves, errors, attention and activations of a checkpoint as PNG files and TensorBoard images."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard.summary import image as image_summary

from afa.config.settings import BackboneSettings
from afa.config.tasks import VisualizeSettings
from afa.data.folders import find_layout, scan_split
from afa.errors import AFAError, CheckpointError, ConfigError
from afa.files import keep_old, write_bytes
from afa.inference.classifier import Classifier, load_classifier
from afa.inference.predictions import find_images
from afa.inference.trained_attention import attention_to, centre_views, read_settings
from afa.method.catalogue import METHODS
from afa.networks.features import FrozenSource
from afa.report import plots
from afa.report.confusion import read_predictions
from afa.report.page import ATTENTION, evenly_spaced
from afa.results.journal import say
from afa.results.records import EventFile
from afa.results.run_folder import StageFolder, stage_name
from afa.training.checkpoint import load_checkpoint
from afa.training.learner import Start, aligned_layers, build_source, source_start
from afa.training.numerics import products_in_tf32

_PAIRS, _EXAMPLES = 10, 5  # confused pairs of classes, and images of each


def visualize(settings: VisualizeSettings) -> None:
    """Write all plots for which the checkpoint and its run contain the data; print the names of the others.

    Raises:
        AFAError: a checkpoint or an image cannot be used, or the files cannot be written.
    """
    known = {name: getattr(settings, name) for name in ("outpath", "gpu_id", "base_model_name")}
    classifier, *others = (load_classifier(name, **known) for name in (settings.pre_trained_path, *settings.compare))
    if settings.input:
        paths, notes = find_images(settings.input)
    elif classifier.checkpoint.settings:
        data = read_settings(classifier.checkpoint, classifier.path).data
        images = scan_split(find_layout(Path(data.root) / data.dataset).test)
        paths, notes = list(images.paths), list(images.notes)
    else:
        raise ConfigError(f"input: missing: {classifier.path} does not contain the name of its data set")
    for line in notes:
        say(line)
    if not paths:
        raise ConfigError(f"input: no image in {settings.input}")
    folder = Path(settings.output)
    moved = keep_old(folder)
    try:
        events = EventFile(folder / "tensorboard")
        for name, image in _named_images(classifier, others, evenly_spaced(paths, settings.images), known):
            path, content = folder / f"{name}.png", io.BytesIO()
            image.save(content, "PNG")
            write_bytes(path, content.getvalue())
            events.write([image_summary(name, np.asarray(image), dataformats="HWC")])
            say(str(path))
    except OSError as error:
        reason = error.strerror or error
        raise AFAError(f"{folder}: cannot be written: {reason}; choose another output=<folder>") from None
    if moved:
        say(f"the previous files are kept in {moved}")


def _named_images(
    classifier: Classifier, others: Sequence[Classifier], paths: Sequence[Path], known: Mapping[str, str]
) -> Iterator[tuple[str, Image.Image]]:
    """Name and image of each file: curves and errors of the run, then attention and activations for ``paths``."""
    folder = StageFolder(classifier.path.absolute().parent.parent)
    shown = ", ".join(_caption(classifier))
    history = load_checkpoint(folder.last).history if folder.last.exists() else []
    if history:
        curves = plots.tile(list(plots.stage_curves([history], classifier.checkpoint.split).values()))
        yield "curves", plots.titled(curves, f"Training of {shown}")
    if folder.predictions_csv.exists():
        confusion = read_predictions(folder.predictions_csv)
        legend = "Number of test images; the strength of the colour shows the fraction of the images of the true class."
        matrix = plots.to_image(plots.confusion_matrix(confusion))
        yield "confusion", plots.titled(matrix, f"Confusion of {shown}", legend)
        accuracies = plots.to_image(plots.class_accuracies(confusion.per_class()))
        yield "per_class", plots.titled(accuracies, f"Test images of {shown}")
        if pairs := confusion.most_confused(_PAIRS):
            missing = Image.new("RGB", (1, 1), "lightgrey")
            colours = classifier.preprocessing.background, classifier.preprocessing.grey_range
            rows = [
                [
                    plots.Captioned(i.read(plots.SIDE, *colours) or missing, i.true, f"as {i.predicted}")
                    for i in images[:_EXAMPLES]
                ]
                for images in pairs
            ]
            image = plots.to_image(plots.image_rows(rows))
            yield "most_confused", plots.titled(image, f"Most confused classes of {shown}")
    else:
        say(f"no confusion matrix: {folder.path} contains no predictions.csv; an evaluation (mode=eval) writes it")
    images, views = centre_views(classifier, paths)
    for kind, (stage, rows) in _attention(classifier, images, views, known).items():
        title, legend = ATTENTION[kind]
        yield f"{kind}_attention", plots.titled(plots.to_image(plots.image_rows(rows)), f"{title}: {stage}", legend)
    layers = tuple(classifier.checkpoint.aligned_layers) or aligned_layers(BackboneSettings(name=classifier.backbone))
    with products_in_tf32(False):
        maps = {caption: network(views).maps for caption, network in _networks(classifier, others, layers).items()}
    for index, layer in enumerate(layers):
        of_layer = {caption: of_network[index].cpu() for caption, of_network in maps.items()}
        image = plots.to_image(plots.image_rows(plots.activation_rows(images, of_layer)))
        legend = "The channel with the largest variance in the source. The maps of a row have one colour scale."
        yield f"activations_{layer}", plots.titled(image, f"Activations of {layer}", legend)


def _attention(
    classifier: Classifier, images: Sequence[Image.Image], views: Tensor, known: Mapping[str, str]
) -> dict[str, tuple[str, list[list[plots.Captioned]]]]:
    """Kind of attention -> the stage that learned it, and its rows: of the checkpoint's stage, and of the one before.

    The stage before is of the same run; if it cannot be used, a line reports why.
    """
    found: dict[str, tuple[str, list[list[plots.Captioned]]]] = {}
    folder = classifier.path.absolute().parent.parent
    before = StageFolder(folder.with_name("stage_1")).best
    stages = [before, classifier.path] if folder.name == "stage_2" and before.exists() else [classifier.path]
    for path in stages:
        try:
            stage = classifier if path == classifier.path else load_classifier(path, **known)
            rows = plots.attention_rows(images, attention_to(stage, views))
        except AFAError as error:
            if path == classifier.path:
                raise
            say(f"no attention of stage one: {error}")
            continue
        found |= {kind: (", ".join(_caption(stage)), of_kind) for kind, of_kind in rows.items()}
    return found


def _caption(classifier: Classifier) -> tuple[str, str]:
    """The run or file of a checkpoint, and its method and epoch."""
    checkpoint = classifier.checkpoint
    method = METHODS.get(checkpoint.method)
    return stage_name(classifier.path), f"{method.label}, epoch {checkpoint.epoch}" if method else "released"


def _networks(
    classifier: Classifier, others: Sequence[Classifier], layers: Sequence[str]
) -> dict[tuple[str, str], FrozenSource]:
    """Caption -> network: the pre-trained source, the networks to compare with, and that of the checkpoint.

    Raises:
        CheckpointError: a network has another backbone or preprocessing.
    """
    backbone = BackboneSettings(name=classifier.backbone)
    if classifier.checkpoint.settings:
        backbone = read_settings(classifier.checkpoint, classifier.path).backbone
    backbone = replace(backbone, aligned_layers=tuple(layers))
    starts = {("source", "before training"): source_start(backbone)}
    for other in (*others, classifier):
        if (other.backbone, other.preprocessing) != (classifier.backbone, classifier.preprocessing):
            message = f"its network, image size or preprocessing is not that of {classifier.path}"
            raise CheckpointError(f"{other.path}: {message}")
        name, detail = _caption(other)
        captions = ((f"{name} ({number})" if number > 1 else name, detail) for number in count(1))
        caption = next(caption for caption in captions if caption not in starts)
        starts[caption] = Start(other.checkpoint.model, str(other.path), with_head=True)
    return {caption: build_source(backbone, start, {"maps"}, classifier.device) for caption, start in starts.items()}
