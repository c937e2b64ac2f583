"""What a dry run found, in words: data, network, aligned layers, one step."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from afa.data.folders import ImageFolder
from afa.method.catalogue import METHODS
from afa.results.figures import format_seconds, format_table
from afa.training.engine import Learner, Step
from afa.training.evaluation import Evaluation
from afa.training.job import StageJob
from afa.training.measure import StageEstimate

_UNBALANCED = 2  # times as many images in the largest class as in the smallest
_SHOWN = 3


def describe_data(train: ImageFolder | None, test: ImageFolder, held_out_fraction: float) -> str:
    """Counts of images, and how evenly the classes share them."""
    held = f", of which {100 * held_out_fraction:g} % are held out" if held_out_fraction else ""
    lines = [f"{len(test.classes)} classes below {test.root.parent}"]
    lines += [_balance("training", train) + held] if train else []
    return "\n".join([*lines, _balance("test", test)])


def _balance(name: str, folder: ImageFolder) -> str:
    counts = Counter(folder.labels)
    ordered = sorted(counts, key=lambda label: counts[label])
    least, most = counts[ordered[0]], counts[ordered[-1]]
    line = f"  {len(folder)} {name} images, {least} to {most} a class"
    if most < _UNBALANCED * least:
        return line
    few, many = (
        ", ".join(f"{folder.classes[label]} {counts[label]}" for label in labels)
        for labels in (ordered[:_SHOWN], ordered[: -_SHOWN - 1 : -1])
    )
    return f"{line}: unbalanced; fewest {few}; most {many}"


def describe_stage(job: StageJob, learner: Learner, step: Step, estimate: StageEstimate) -> str:
    """What trains in a stage, what is compared, and the step that was taken."""
    target = learner.target
    head, attention = count_parameters(target.head_parameters()), count_parameters(learner.objective.parameters())
    frozen = "" if METHODS[job.stage.method].trains_backbone else ", only the head trains"
    lines = [
        f"\n{job.title}: {job.backbone.name} from {job.start.origin}",
        f"  {count_parameters(target.parameters()):,} parameters, {head:,} of them in the head{frozen}",
    ]
    if learner.source is not None:
        lines.append(f"  beside it the frozen source, and {attention:,} parameters of attention")
        shapes = target.map_shapes(job.preprocessing.image_size)
        rows = [
            [layer, str(shape.channels), f"{shape.height} x {shape.width}"]
            for layer, shape in zip(target.aligned_layers, shapes, strict=True)
        ]
        lines += [f"  {line}" for line in format_table(["aligned layer", "channels", "map"], rows).splitlines()]
    steps = -(-len(job.splits.train.folder) // job.batch_size)
    seconds = format_seconds(job.batch_size / estimate.images_per_second)
    lines += [
        f"  {job.epochs} epochs of {steps} steps; a step of {job.batch_size} images takes {seconds}",
        f"  a real step: {step.describe()}",
    ]
    return "\n".join(lines)


def describe_evaluation(path: Path, evaluation: Evaluation) -> str:
    """Which checkpoint."""
    checkpoint = evaluation.checkpoint
    origin = f"{checkpoint.method} epoch {checkpoint.epoch}" if checkpoint.method else "a bare state dict"
    size = count_parameters(evaluation.target.parameters())
    return f"\n{path}: {origin}, {size:,} parameters, {evaluation.loader.preprocessing.views} views an image"


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """Values in all of them."""
    return sum(parameter.numel() for parameter in parameters)
