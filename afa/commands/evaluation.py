"""Evaluation of a trained or released checkpoint on the test images."""

from pathlib import Path
from typing import Any, NamedTuple

from afa.commands.image_reader import ImageReader, describe_images
from afa.config.settings import DataSettings, Settings
from afa.data.loaders import TestLoader
from afa.errors import AFAError
from afa.fields import setting_fields
from afa.files import sha256
from afa.machine.context import Context
from afa.networks.features import FeatureNetwork
from afa.results.outcomes import format_table
from afa.results.records import write_predictions
from afa.results.run_folder import StageFolder
from afa.training.checkpoint import Checkpoint, load_checkpoint
from afa.training.engine import score
from afa.training.learner import build_target
from afa.training.loop import predict_split


class Evaluation(NamedTuple):
    """A checkpoint that fits the test images."""

    checkpoint: Checkpoint
    target: FeatureNetwork
    loader: TestLoader


def prepare_evaluation(settings: Settings, path: Path, context: Context) -> Evaluation:
    """Read checkpoint and test images.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another network or other classes.
        AFAError: it was trained on images of another size or preprocessing.
    """
    checkpoint, data = load_checkpoint(path), settings.data
    different = [
        f"{key} = {getattr(checkpoint, f.name)}, now {getattr(data, f.name)}"
        for key, f in setting_fields(DataSettings).items()
        if hasattr(checkpoint, f.name) and getattr(checkpoint, f.name) != getattr(data, f.name)
    ]
    if checkpoint.image_size and different:  # a released checkpoint does not store its preprocessing
        raise AFAError(f"{path}: trained with another preprocessing ({'; '.join(different)}); change the config")
    reader = ImageReader(data, context)
    split = reader.read_test()
    folder = split.folder.relabelled(checkpoint.classes) if checkpoint.classes else split.folder
    if missing := len(folder.classes) - len(split.folder.classes):
        context.journal.log(f"{folder.root}: no images of {missing} of the checkpoint's {len(folder.classes)} classes")
    context.processes.check_counts({"test images": len(folder)})
    target = build_target(settings.backbone, checkpoint, path, folder.classes, context.device)
    loader = TestLoader(
        folder,
        reader.preprocessing,
        batch_size=-(-data.batch_size // context.processes.size),  # the processes share a batch
        device=context.device,
        num_workers=data.num_workers,
        canvases=split.canvases,
        rank=context.processes.rank,
        world_size=context.processes.size,
    )
    return Evaluation(checkpoint, target, loader)


def evaluate_checkpoint(settings: Settings, path: Path, *, folder: StageFolder, context: Context) -> dict[str, Any]:
    """Write ``predictions.csv`` and ``per_class.csv`` to ``folder``; return the metrics. Raises as above."""
    checkpoint, target, loader = prepare_evaluation(settings, path, context)
    images, processes = loader.folder, context.processes
    logits, labels = predict_split(target, loader, "evaluating", context)
    metrics = score(logits, labels)
    processes.on_main(
        write_predictions, folder, paths=images.paths, labels=labels, logits=logits, classes=images.classes
    )
    percent = [f"{value:.2f}" for value in (metrics.top1, metrics.top5, metrics.balanced)]
    row = [*percent, f"{metrics.loss:.4f}", str(len(images)), str(path)]
    described = describe_images(images)
    return {
        "checkpoint": str(path),
        "checkpoint_sha256": sha256(path),
        "epoch": checkpoint.epoch,
        "selected_on": checkpoint.split,
        **metrics._asdict(),
        "test_images": described["images"],
        "test_sha256": described["sha256"],
        "data": {"test": described},
        "table": format_table(["top-1 %", "top-5 %", "balanced %", "cross-entropy", "images", "checkpoint"], [row]),
    }
