"""``mode=visualize``: why a trained stage decides as it does, as PNG files and TensorBoard images."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from afa.config.layout import LAST
from afa.config.settings import BackboneSettings
from afa.config.tasks import VisualizeSettings
from afa.data.folders import scan_split
from afa.errors import AFAError, CheckpointError, ConfigError
from afa.inference.attention_maps import attention_to, centre_views, read_settings
from afa.inference.classifier import Classifier, load_classifier
from afa.inference.predict import find_images
from afa.method.catalogue import METHODS
from afa.networks.features import FrozenSource
from afa.report.activations import draw_activations
from afa.report.attention import attention_rows
from afa.report.charts import stage_charts
from afa.report.confusion import read_predictions
from afa.report.drawing import draw_charts, draw_matrix_picture, draw_pairs, draw_per_class
from afa.report.heat import grid
from afa.report.matrix import draw_matrix
from afa.report.pictures import spread
from afa.results.records import keep_old
from afa.training.checkpoint import load_checkpoint
from afa.training.setup import Start, aligned_layers, build_source, source_start

_PAIRS, _EXAMPLES = 10, 5


class Picture(NamedTuple):
    """``name``.png, and the tag of TensorBoard's image."""

    name: str
    image: Image.Image


def visualize(settings: VisualizeSettings) -> None:
    """Write what can be drawn of a checkpoint, and say what cannot.

    Raises:
        AFAError: the checkpoint, one to compare with, or an image cannot be used.
    """
    classifier = _load(settings, settings.pre_trained_path)
    others = [_load(settings, name) for name in settings.compare]
    paths = _choose_images(classifier, settings)
    folder = Path(settings.output)
    moved = keep_old(folder)
    try:
        writer = SummaryWriter(folder / "tensorboard")
        for picture in _pictures(classifier, others, paths):
            picture.image.save(folder / f"{picture.name}.png")
            writer.add_image(picture.name, np.asarray(picture.image), dataformats="HWC")
            print(folder / f"{picture.name}.png", flush=True)
        writer.close()
    except OSError as error:
        raise AFAError(
            f"{folder}: cannot be written: {error.strerror or error}; choose another output=<folder>"
        ) from None
    if moved:
        print(f"what was there before is kept as {moved}")


def _load(settings: VisualizeSettings, name: str) -> Classifier:
    return load_classifier(
        name, outpath=settings.outpath, gpu_id=settings.gpu_id, base_model_name=settings.base_model_name
    )


def _choose_images(classifier: Classifier, settings: VisualizeSettings) -> list[Path]:
    """Of ``input``, or of the test images of the data set trained on, as many as are wanted.

    Raises:
        AFAError: there are none.
    """
    if settings.input:
        paths = find_images(settings.input)
    elif classifier.checkpoint.settings:
        data = read_settings(classifier.checkpoint, classifier.path).data
        paths = list(scan_split(Path(data.root) / data.dataset / "test").paths)
    else:
        raise ConfigError(f"input: missing: {classifier.path} does not say on which images it was trained")
    if not paths:
        raise ConfigError(f"input: no image in {settings.input}")
    return spread(paths, settings.images)


def _pictures(classifier: Classifier, others: Sequence[Classifier], paths: Sequence[Path]) -> Iterator[Picture]:
    yield from _of_the_run(classifier)
    pictures, views = centre_views(classifier, paths)
    for kind, rows in attention_rows(pictures, attention_to(classifier, views)).items():
        yield Picture(f"{kind}_attention", grid(rows))
    layers = tuple(classifier.checkpoint.aligned_layers) or aligned_layers(BackboneSettings(name=classifier.backbone))
    networks = _networks(classifier, others, layers)
    for layer, image in draw_activations(networks, layers, pictures, views).items():
        yield Picture(f"activations_{layer}", image)


def _of_the_run(classifier: Classifier) -> Iterator[Picture]:
    """Curves, and mistakes on the test images, from the files beside the checkpoint."""
    folder = classifier.path.absolute().parent.parent
    if (folder / LAST).exists():
        history = load_checkpoint(folder / LAST).training.get("history", [])
        if history:
            yield Picture("curves", draw_charts(stage_charts([history], classifier.checkpoint.split)))
    if not (folder / "predictions.csv").exists():
        print(f"no confusion: {folder} holds no predictions.csv; an evaluation (mode=eval) writes one")
        return
    confusion = read_predictions(folder / "predictions.csv")
    yield Picture("confusion", draw_matrix_picture(draw_matrix(confusion)))
    yield Picture("per_class", draw_per_class(confusion.per_class()))
    pairs = confusion.most_confused(_PAIRS)
    if pairs:
        yield Picture("most_confused", draw_pairs(pairs, _EXAMPLES))


def _networks(classifier: Classifier, others: Sequence[Classifier], layers: Sequence[str]) -> dict[str, FrozenSource]:
    """Title -> network: the pre-trained source, the networks to compare with, and the checkpoint's own.

    Raises:
        CheckpointError: one is of another backbone or image size.
    """
    backbone = BackboneSettings(name=classifier.backbone)
    if classifier.checkpoint.settings:
        backbone = read_settings(classifier.checkpoint, classifier.path).backbone
    backbone = replace(backbone, aligned_layers=tuple(layers))
    starts = {"source": source_start(backbone)}
    for other in (*others, classifier):
        same = (other.backbone, other.preprocessing) == (classifier.backbone, classifier.preprocessing)
        if not same:
            raise CheckpointError(
                f"{other.path}: of another network, image size or preprocessing than {classifier.path}"
            )
        starts[_title(other, starts)] = Start(other.checkpoint.model, str(other.path), with_head=True)
    networks = {}
    for title, start in starts.items():
        network = build_source(backbone, start, {"maps"}, classifier.device)
        assert network is not None
        networks[title] = network
    return networks


def _title(classifier: Classifier, taken: Collection[str]) -> str:
    """The method's name, numbered where another has it already."""
    method = METHODS.get(classifier.checkpoint.method)
    name = method.label if method else classifier.path.stem
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(title for title in itertools.chain([name], numbered) if title not in taken)
