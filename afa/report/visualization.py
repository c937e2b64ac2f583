"""``mode=visualize``: curves, errors, attention and activations of a checkpoint as PNG files and TensorBoard images."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from afa.config.settings import BackboneSettings
from afa.config.tasks import VisualizeSettings
from afa.data.folders import find_layout, scan_split
from afa.errors import AFAError, CheckpointError, ConfigError
from afa.files import keep_old
from afa.inference.classifier import Classifier, load_classifier
from afa.inference.predictions import find_images
from afa.inference.trained_attention import attention_to, centre_views, read_settings
from afa.method.catalogue import METHODS
from afa.networks.features import FrozenSource
from afa.report import plots
from afa.report.confusion import read_predictions
from afa.report.page import evenly_spaced
from afa.results.run_folder import StageFolder
from afa.training.checkpoint import load_checkpoint
from afa.training.learner import Start, aligned_layers, build_source, source_start

_PAIRS, _EXAMPLES = 10, 5  # confused pairs of classes, and images of each


def visualize(settings: VisualizeSettings) -> None:
    """Write all plots that the checkpoint and its run allow; print which are missing.

    Raises:
        AFAError: a checkpoint or an image cannot be used, or the files cannot be written.
    """
    known = {name: getattr(settings, name) for name in ("outpath", "gpu_id", "base_model_name")}
    classifier, *others = (load_classifier(name, **known) for name in (settings.pre_trained_path, *settings.compare))
    if settings.input:
        paths = find_images(settings.input)
    elif classifier.checkpoint.settings:
        data = read_settings(classifier.checkpoint, classifier.path).data
        paths = list(scan_split(find_layout(Path(data.root) / data.dataset).test).paths)
    else:
        raise ConfigError(f"input: missing: {classifier.path} does not contain the name of its data set")
    if not paths:
        raise ConfigError(f"input: no image in {settings.input}")
    folder = Path(settings.output)
    moved = keep_old(folder)
    try:
        with SummaryWriter(folder / "tensorboard") as writer:
            for name, image in _named_images(classifier, others, evenly_spaced(paths, settings.images)):
                path = folder / f"{name}.png"
                image.save(path)
                writer.add_image(name, np.asarray(image), dataformats="HWC")
                print(path, flush=True)
    except OSError as error:
        reason = error.strerror or error
        raise AFAError(f"{folder}: cannot be written: {reason}; choose another output=<folder>") from None
    if moved:
        print(f"the previous files are kept in {moved}")


def _named_images(
    classifier: Classifier, others: Sequence[Classifier], paths: Sequence[Path]
) -> Iterator[tuple[str, Image.Image]]:
    """Name and image of each file: curves and errors of the run, then attention and activations for ``paths``."""
    folder = StageFolder(classifier.path.absolute().parent.parent)
    history = load_checkpoint(folder.last).history if folder.last.exists() else []
    if history:
        yield "curves", plots.tile(list(plots.stage_curves([history], classifier.checkpoint.split).values()))
    if folder.predictions_csv.exists():
        confusion = read_predictions(folder.predictions_csv)
        yield "confusion", plots.to_image(plots.confusion_matrix(confusion))
        yield "per_class", plots.to_image(plots.class_accuracies(confusion.per_class()))
        if pairs := confusion.most_confused(_PAIRS):
            missing = Image.new("RGB", (1, 1), "lightgrey")
            rows = [
                [
                    plots.Captioned(i.read(plots.SIDE) or missing, i.true, f"as {i.predicted}")
                    for i in images[:_EXAMPLES]
                ]
                for images in pairs
            ]
            yield "most_confused", plots.to_image(plots.image_rows(rows))
    else:
        print(f"no confusion matrix: {folder.path} contains no predictions.csv; an evaluation (mode=eval) writes it")
    images, views = centre_views(classifier, paths)
    for kind, rows in plots.attention_rows(images, attention_to(classifier, views)).items():
        yield f"{kind}_attention", plots.to_image(plots.image_rows(rows))
    layers = tuple(classifier.checkpoint.aligned_layers) or aligned_layers(BackboneSettings(name=classifier.backbone))
    maps = {title: network(views).maps for title, network in _networks(classifier, others, layers).items()}
    for index, layer in enumerate(layers):
        of_layer = {title: of_network[index].cpu() for title, of_network in maps.items()}
        yield f"activations_{layer}", plots.to_image(plots.image_rows(plots.activation_rows(images, of_layer)))


def _networks(classifier: Classifier, others: Sequence[Classifier], layers: Sequence[str]) -> dict[str, FrozenSource]:
    """Title -> network: the pre-trained source, the networks to compare with, and that of the checkpoint.

    Raises:
        CheckpointError: a network has another backbone or preprocessing.
    """
    backbone = BackboneSettings(name=classifier.backbone)
    if classifier.checkpoint.settings:
        backbone = read_settings(classifier.checkpoint, classifier.path).backbone
    backbone = replace(backbone, aligned_layers=tuple(layers))
    starts = {"source": source_start(backbone)}
    for other in (*others, classifier):
        if (other.backbone, other.preprocessing) != (classifier.backbone, classifier.preprocessing):
            message = f"its network, image size or preprocessing is not that of {classifier.path}"
            raise CheckpointError(f"{other.path}: {message}")
        method = METHODS.get(other.checkpoint.method)
        name = method.label if method else other.path.stem
        titles = (f"{name} ({number})" if number > 1 else name for number in count(1))
        starts[next(title for title in titles if title not in starts)] = Start(
            other.checkpoint.model, str(other.path), with_head=True
        )
    return {title: build_source(backbone, start, {"maps"}, classifier.device) for title, start in starts.items()}
