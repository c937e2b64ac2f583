"""The text of a dry run about the data and the stages of a run."""

import math
from collections import Counter
from textwrap import indent

from afa.commands.first_steps import FirstSteps
from afa.data.folders import ImageFolder
from afa.method.catalogue import METHODS
from afa.results.outcomes import format_seconds, format_table
from afa.training.engine import Learner
from afa.training.learner import count_parameters
from afa.training.stage import Stage

UNBALANCED = 2
"""Ratio of the sizes of the largest and the smallest class."""


def describe_data(
    test: ImageFolder,
    train: ImageFolder | None = None,
    held_out: ImageFolder | None = None,
    held_out_fraction: float = 0.0,
) -> str:
    """Number of images per split, and how evenly they are distributed over the classes."""
    lines = [f"{len(test.classes)} classes in {test.root.parent}"]
    for name, folder in (("training", train), ("held-out", held_out), ("test", test)):
        if folder is None:
            continue
        ordered = Counter(folder.labels).most_common()
        most, least = ordered[0][1], ordered[-1][1]
        line = f"  {len(folder)} {name} images, {least if least == most else f'{least} to {most}'} per class"
        if most >= UNBALANCED * least:
            half = len(ordered) // 2
            few, many = (
                ", ".join(f"{folder.classes[label]} {count}" for label, count in extreme)
                for extreme in (ordered[: half - 1 : -1][:3], ordered[:half][:3])
            )
            line += f": unbalanced; fewest {few}; most {many}; see class_weights"
        if name == "training" and held_out_fraction:
            line += f", of which {100 * held_out_fraction:g} % are held out"
        lines.append(line)
    return "\n".join(lines)


def describe_stage(stage: Stage, learner: Learner, first_steps: FirstSteps, images_per_second: float) -> str:
    """The parameters that a stage trains, the maps that it compares, and the losses of its first steps."""
    target, batch_size = learner.target, stage.settings.data.batch_size
    head, attention = count_parameters(target.head_parameters()), count_parameters(learner.objective.parameters())
    frozen = "" if METHODS[stage.options.method].trains_backbone else ", only the head is trained"
    lines = [
        f"\n{stage.title}: {stage.settings.backbone.name} from {stage.start.origin}",
        f"  {count_parameters(target.parameters()):,} parameters, {head:,} of them in the head{frozen}",
    ]
    if learner.source is not None:
        lines.append(f"  and the frozen source, and {attention:,} parameters of attention")
        shapes = target.map_shapes(stage.preprocessing.image_size)
        rows = [
            [layer, str(shape.channels), f"{shape.height} x {shape.width}"]
            for layer, shape in zip(target.aligned_layers, shapes, strict=True)
        ]
        lines.append(indent(format_table(["aligned layer", "channels", "map"], rows), "  "))
    steps = math.ceil(len(stage.splits.train.folder) / batch_size)
    seconds = format_seconds(batch_size / images_per_second)
    lines += [
        f"  {stage.epochs} epochs of {steps} steps; a step of {batch_size} images takes {seconds}",
        indent(first_steps.describe(), "  "),
    ]
    return "\n".join(lines)
