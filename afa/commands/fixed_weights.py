"""Weights that are fixed before a stage starts, one tensor per layer: those of DELTA and of fixed attention.

They are computed on the pre-trained source and the training images, and stored as JSON in the stage's folder: one
list per layer, the format of the authors' release. An interrupted computation is resumed by the same command.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afa.commands.delta_weights import compute_channel_weights, head_stage
from afa.config.settings import BackboneSettings
from afa.data.loaders import TestLoader
from afa.errors import CheckpointError, one_line
from afa.files import open_regular, write_json
from afa.machine.context import Context
from afa.machine.launch import require_single_process
from afa.method.aligned_maps import AttentiveTerm, Spatial
from afa.method.catalogue import METHODS
from afa.method.term import MapShape
from afa.results.run_folder import find_checkpoint
from afa.training.checkpoint import load_checkpoint
from afa.training.learner import (
    aligned_layers,
    aligned_shapes,
    attention_state,
    build_attention,
    build_source,
    source_start,
)
from afa.training.loop import train_stage
from afa.training.numerics import products_in_tf32
from afa.training.stage import Stage


@products_in_tf32(False)
def compute_mean_attention(stage: Stage, context: Context) -> list[Tensor]:
    """(H*W,) per layer: the mean over the test views of the training images.

    The AST is the one that ``attention_path`` names, or one that is trained first with the stage's own settings.
    """
    backbone, start = stage.settings.backbone, source_start(stage.settings.backbone)
    if stage.options.attention_path:
        path = find_checkpoint(
            stage.options.attention_path, stage.settings.run.outpath, stage.repeat, which=stage.options.stage_start
        )
    else:
        ast = ast_stage(stage)
        train_stage(ast, context)
        path = ast.folder.best_or_last(stage.options.stage_start)
    spatial = load_spatial_attention(path, backbone, stage.preprocessing.image_size).to(context.device)
    source = build_source(backbone, start, {"maps"}, context.device)
    loader = TestLoader(
        stage.splits.train.folder,
        stage.preprocessing,
        batch_size=max(stage.settings.data.batch_size // stage.preprocessing.views, 1),
        device=context.device,
        num_workers=stage.settings.data.num_workers,
    )
    sums = [torch.zeros((), dtype=torch.float64, device=context.device)] * len(spatial.attentions)
    views = 0
    with context.journal.progress(f"{stage.title}: mean attention", len(loader.folder)) as bar:
        for batch in loader:
            maps = source(batch.views).maps
            with torch.inference_mode():
                weights = [attend(map_) for attend, map_ in zip(spatial.attentions, maps, strict=True)]
            sums = [total + w.double().sum(dim=0) for total, w in zip(sums, weights, strict=True)]
            views += len(batch.views)
            bar.update(len(batch.labels))
    return [(total / views).float().cpu() for total in sums]


def ast_stage(stage: Stage) -> Stage:
    """The stage that trains the AST for the mean attention."""
    options = replace(stage.options, method="ast", method_settings=None, keep_source=False)
    return stage.nested("ast", "AST", options, source_start(stage.settings.backbone))


def load_spatial_attention(path: Path, backbone: BackboneSettings, image_size: int) -> AttentiveTerm:
    """Read the attentive modules of a trained AST.

    Raises:
        CheckpointError: it is damaged, has no spatial attention, or has that of other layers.
    """
    checkpoint, layers = load_checkpoint(path), aligned_layers(backbone)
    state = attention_state(checkpoint, Spatial)
    if not state:
        method = checkpoint.method or "unknown"
        raise CheckpointError(f"{path}: has no spatial attention (method {method}); name an AST checkpoint")
    if (checkpoint.backbone, tuple(checkpoint.aligned_layers)) != (backbone.name, layers):
        raise CheckpointError(
            f"{path}: its attention is over {', '.join(checkpoint.aligned_layers)} of {checkpoint.backbone}; "
            f"the config aligns {', '.join(layers)} of {backbone.name}"
        )
    return build_attention(Spatial, state, aligned_shapes(backbone, image_size), path, image_size)


class WeightSource(NamedTuple):
    """How one kind of fixed weights is obtained.

    Attributes:
        file: name of the JSON file in the stage's folder.
        size: number of weights of a layer with a given map shape.
        compute: returns the weights as the file stores them.
    """

    file: str
    size: Callable[[MapShape], int]
    compute: Callable[[Stage, Context], list[Tensor]]


WEIGHT_SOURCES: dict[str, WeightSource] = {
    "channel_weights": WeightSource("channel_weights.json", lambda shape: shape.channels, compute_channel_weights),
    "mean_attention": WeightSource(
        "mean_attention.json", lambda shape: shape.height * shape.width, compute_mean_attention
    ),
}
"""``fixed_weights`` of a method's row -> how they are obtained."""


def nested_stage(stage: Stage) -> Stage | None:
    """The stage that is trained first to compute the fixed weights of ``stage``; None if there is none."""
    kind, options = METHODS[stage.options.method].fixed_weights, stage.options
    if kind == "channel_weights" and not options.channel_weight_path:
        return head_stage(stage)
    return ast_stage(stage) if kind == "mean_attention" and not options.attention_path else None


def with_fixed_weights(stage: Stage, context: Context, *, uniform: bool = False) -> Stage:
    """Return the stage with the weights that its method needs, read or computed; unchanged if it needs none.

    Args:
        uniform: use the same weight everywhere and compute nothing, to time the steps of a stage.

    Raises:
        AFAError: see ``load_layer_weights`` and ``train_stage``.
    """
    kind = METHODS[stage.options.method].fixed_weights
    if not kind:
        return stage
    source = WEIGHT_SOURCES[kind]
    sizes = [source.size(shape) for shape in aligned_shapes(stage.settings.backbone, stage.preprocessing.image_size)]
    if uniform:
        return replace(stage, fixed_weights=tuple(torch.full((size,), 1 / size) for size in sizes))
    path, folder = stage.folder.path / source.file, stage.folder
    # A stage that was started compares the images with those of its start; before, the computation compares them.
    is_started = any(file.exists() for file in (folder.last, folder.previous, folder.result))
    if kind == "channel_weights" and stage.options.channel_weight_path:
        path = Path(stage.options.channel_weight_path)
    elif not path.exists() or not (is_started or context.processes.size > 1):
        require_single_process(f"reg_type = {stage.options.method}: the computation of {path}")
        stage.folder.path.mkdir(parents=True, exist_ok=True)
        write_json(path, [weights.tolist() for weights in source.compute(stage, context)])
        context.journal.log(f"{stage.title}: fixed weights written to {path}")
    return replace(stage, fixed_weights=tuple(load_layer_weights(path, sizes)))


def load_layer_weights(path: Path, sizes: Sequence[int]) -> list[Tensor]:
    """Read weights from JSON: one list of numbers per layer, with the given sizes.

    Raises:
        CheckpointError: the file is missing, is not JSON, or has lists that do not fit the aligned layers.
    """
    try:
        with open_regular(path) as file:
            lists = json.load(file)
        weights = [torch.tensor(values, dtype=torch.float32) for values in lists]
    except (OSError, ValueError, TypeError, OverflowError, RuntimeError) as error:  # RecursionError is a RuntimeError
        raise CheckpointError(f"{path}: expected JSON with one list of numbers per layer: {one_line(error)}") from None
    found, expected = [tuple(w.shape) for w in weights], [(size,) for size in sizes]
    if found != expected:
        shown = f"{found[:8]}{' and more' if len(found) > 8 else ''}"
        raise CheckpointError(f"{path}: has lists of shapes {shown}; the aligned layers need {expected}")
    if not all(w.isfinite().all() and (w >= 0).all() for w in weights):
        raise CheckpointError(f"{path}: has a weight that is negative or not finite")
    return weights
