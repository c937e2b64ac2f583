"""Evaluation of a trained or released checkpoint on the test images."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from afa.config.settings import Settings
from afa.data.loaders import TestLoader
from afa.errors import AFAError
from afa.networks.features import FeatureNetwork
from afa.networks.weights import sha256
from afa.results.figures import format_table
from afa.results.journal import Journal
from afa.results.records import write_predictions
from afa.training.checkpoint import Checkpoint, load_checkpoint
from afa.training.distributed import ALONE, World
from afa.training.engine import predict, score
from afa.training.setup import build_target
from afa.training.splits import ImageReader


class Evaluation(NamedTuple):
    """A checkpoint that was found to fit the test images."""

    checkpoint: Checkpoint
    target: FeatureNetwork
    loader: TestLoader


def prepare_evaluation(
    settings: Settings, path: Path, *, device: torch.device, journal: Journal, world: World = ALONE
) -> Evaluation:
    """Read checkpoint and test images.

    Raises:
        CheckpointError: the checkpoint is damaged, of another network or other classes.
        AFAError: it was trained on images of another size or preprocessing.
    """
    checkpoint = load_checkpoint(path)
    _check_preprocessing(checkpoint, path, settings)
    reader = ImageReader(settings.data, journal, world.local_size)
    split = reader.read_test()
    world.check_enough({"test images": len(split.folder)})
    target = build_target(settings.backbone, checkpoint, path, split.folder.classes).to(device)
    loader = TestLoader(
        split.folder,
        reader.preprocessing,
        batch_size=settings.data.batch_size,
        device=device,
        num_workers=settings.data.num_workers,
        canvases=split.canvases,
        part=world.part,
    )
    return Evaluation(checkpoint, target, loader)


def evaluate_checkpoint(
    settings: Settings, path: Path, *, folder: Path, device: torch.device, journal: Journal, world: World = ALONE
) -> dict[str, Any]:
    """Write ``predictions.csv`` and ``per_class.csv`` to ``folder``; return the figures. Raises as above."""
    checkpoint, target, loader = prepare_evaluation(settings, path, device=device, journal=journal, world=world)
    images = loader.folder
    with journal.progress("evaluating", len(loader.indices)) as bar:
        logits, labels = predict(target, loader, bar.update)
    logits, labels = world.concatenate(logits), world.concatenate(labels)
    figures = score(logits, labels)
    world.lead(write_predictions, folder, paths=images.paths, labels=labels, logits=logits, classes=images.classes)
    row = [f"{figures.top1:.2f}", f"{figures.top5:.2f}", f"{figures.loss:.4f}", str(len(images)), str(path)]
    return {
        "checkpoint": str(path),
        "checkpoint_sha256": sha256(path),
        "epoch": checkpoint.epoch,
        "selected_on": checkpoint.split,
        **figures._asdict(),
        "test_images": len(images),
        "test_sha256": images.fingerprint(),
        "table": format_table(["top-1 %", "top-5 %", "cross-entropy", "images", "checkpoint"], [row]),
    }


def _check_preprocessing(checkpoint: Checkpoint, path: Path, settings: Settings) -> None:
    """A released checkpoint says nothing of its preprocessing; ours does."""
    trained = (checkpoint.image_size, checkpoint.augmentation)
    asked = (settings.data.image_size, settings.data.augmentation)
    if checkpoint.image_size and trained != asked:
        raise AFAError(
            f"{path}: trained with image_size = {trained[0]}, data_aug = {trained[1]}; "
            f"the config says {asked[0]}, {asked[1]}"
        )
