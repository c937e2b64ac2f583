"""Evaluation of a trained or released checkpoint on the test images."""

from pathlib import Path
from typing import Any

import torch

from afa.config.settings import Settings
from afa.data.loaders import TestLoader
from afa.errors import AFAError
from afa.networks.weights import sha256
from afa.results.figures import format_table
from afa.results.journal import Journal
from afa.results.records import write_predictions
from afa.training.checkpoint import Checkpoint, load_checkpoint
from afa.training.engine import predict, score
from afa.training.setup import build_target
from afa.training.splits import ImageReader


def evaluate_checkpoint(
    settings: Settings, path: Path, *, folder: Path, device: torch.device, journal: Journal
) -> dict[str, Any]:
    """Write ``predictions.csv`` and ``per_class.csv`` to ``folder``; return the figures.

    Raises:
        CheckpointError: the checkpoint is damaged, of another network or other classes.
        AFAError: it was trained on images of another size or preprocessing.
    """
    checkpoint = load_checkpoint(path)
    _check_preprocessing(checkpoint, path, settings)
    reader = ImageReader(settings.data, journal)
    split = reader.read_test()
    classes = split.folder.classes
    target = build_target(settings.backbone, checkpoint, path, classes).to(device)
    loader = TestLoader(
        split.folder,
        reader.preprocessing,
        batch_size=settings.data.batch_size,
        device=device,
        num_workers=settings.data.num_workers,
        canvases=split.canvases,
    )
    with journal.progress("evaluating", len(split.folder)) as bar:
        logits, labels = predict(target, loader, bar.update)
    figures = score(logits, labels)
    write_predictions(folder, paths=split.folder.paths, labels=labels, logits=logits, classes=classes)
    row = [f"{figures.top1:.2f}", f"{figures.top5:.2f}", f"{figures.loss:.4f}", str(len(split.folder)), str(path)]
    return {
        "checkpoint": str(path),
        "checkpoint_sha256": sha256(path),
        "epoch": checkpoint.epoch,
        "selected_on": checkpoint.split,
        **figures._asdict(),
        "test_images": len(split.folder),
        "test_sha256": split.folder.fingerprint(),
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
