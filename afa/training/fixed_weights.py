"""Weights that are fixed before a stage begins, one tensor a layer: DELTA's, and those of fixed attention.

They are computed on the pre-trained source and the training images, in a folder of
their own under the stage's, and kept as JSON: one list a layer, the released format.
Cut short, the same command goes on with them too.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afa.config.launch import refuse_several
from afa.config.layout import BEST, find_checkpoint
from afa.config.settings import BackboneSettings
from afa.data.loaders import TestLoader
from afa.errors import CheckpointError, one_line
from afa.method.aligned_maps import AttentiveTerm, Spatial
from afa.method.catalogue import METHODS
from afa.method.term import MapShape
from afa.results.journal import Journal
from afa.results.records import write_json
from afa.training.channel_importance import compute_channel_weights
from afa.training.checkpoint import load_checkpoint
from afa.training.job import StageJob
from afa.training.setup import (
    aligned_layers,
    aligned_shapes,
    attention_state,
    build_attention,
    build_source,
    source_start,
)
from afa.training.signals import Signals
from afa.training.stage import run_stage


class Maker(NamedTuple):
    """How one kind of fixed weights comes about.

    ``size``: how many a layer of this shape has. ``file``: where they are kept, in the
    stage's folder. ``make``: computes them; its result is as a file holds it.
    """

    file: str
    size: Callable[[MapShape], int]
    make: Callable[[StageJob, Journal, Signals], list[Tensor]]


def with_fixed_weights(job: StageJob, journal: Journal, signals: Signals) -> StageJob:
    """The job with the weights that its method asks for, read or computed; as it is, where it asks for none.

    Raises:
        AFAError: see ``load_layer_weights``, ``StageRun.train``.
    """
    kind = METHODS[job.stage.method].fixed_weights
    if not kind:
        return job
    maker = MAKERS[kind]
    path = job.folder / maker.file
    if kind == "channel_weights" and job.stage.channel_weight_path:
        path = Path(job.stage.channel_weight_path)
    elif not path.exists():
        refuse_several(f"reg_type = {job.stage.method}: the weights that it is begun with are not there yet ({path})")
        job.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, [weights.tolist() for weights in maker.make(job, journal, signals)])
        journal.say(f"{job.title}: fixed weights written to {path}")
    shapes = aligned_shapes(job.backbone, job.preprocessing.image_size)
    return replace(job, fixed_weights=tuple(load_layer_weights(path, [maker.size(shape) for shape in shapes])))


def with_even_weights(job: StageJob) -> StageJob:
    """The job with the same weight everywhere, to time its steps without what ``with_fixed_weights`` does first."""
    kind = METHODS[job.stage.method].fixed_weights
    if not kind:
        return job
    sizes = [MAKERS[kind].size(shape) for shape in aligned_shapes(job.backbone, job.preprocessing.image_size)]
    return replace(job, fixed_weights=tuple(torch.full((size,), 1 / size) for size in sizes))


def load_layer_weights(path: Path, sizes: Sequence[int]) -> list[Tensor]:
    """Weights from JSON: one list of numbers a layer, of the given sizes.

    Raises:
        CheckpointError: no such file, not JSON, or lists that do not fit the aligned layers.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        weights = [torch.tensor(values, dtype=torch.float32) for values in lists]
    except (OSError, ValueError, TypeError, OverflowError, RuntimeError) as error:  # RecursionError is the last's
        raise CheckpointError(
            f"{path}: no JSON of channel weights, one list of numbers a layer: {one_line(error)}"
        ) from None
    got, wanted = [tuple(w.shape) for w in weights], [(size,) for size in sizes]
    if got != wanted:
        shown = f"{got[:8]}{' and more' if len(got) > 8 else ''}"
        raise CheckpointError(f"{path}: holds lists of shapes {shown}; the aligned layers have {wanted} channels")
    if not all(w.isfinite().all() and (w >= 0).all() for w in weights):
        raise CheckpointError(f"{path}: holds a weight that is no number from 0 on")
    return weights


def mean_attention(job: StageJob, journal: Journal, signals: Signals) -> list[Tensor]:
    """The mean of a trained AST's attention over the training images' test views, (H*W,) a layer (Table 9)."""
    path = _trained_ast(job, journal, signals)
    ast = load_spatial_attention(path, job.backbone, job.preprocessing.image_size).to(job.device)
    source = build_source(job.backbone, source_start(job.backbone), {"maps"}, job.device)
    assert source is not None
    folder = job.splits.train.folder
    loader = TestLoader(
        folder, job.preprocessing, batch_size=job.batch_size, device=job.device, num_workers=job.num_workers
    )
    sums, views = [torch.zeros((), dtype=torch.float64, device=job.device)] * len(ast.attentions), 0
    with journal.progress(f"{job.title}: mean attention", len(folder)) as bar:
        for batch in loader:
            with torch.inference_mode():
                weights = [attend(map_) for attend, map_ in zip(ast.attentions, source(batch.views), strict=True)]
            sums = [total + w.double().sum(dim=0) for total, w in zip(sums, weights, strict=True)]
            views += len(batch.views)
            bar.update(len(batch.labels))
    return [(total / views).float().cpu() for total in sums]


def _trained_ast(job: StageJob, journal: Journal, signals: Signals) -> Path:
    """The checkpoint of the AST that the config names, or of one trained here with the stage's own settings."""
    if job.stage.attention_path:
        return find_checkpoint(job.stage.attention_path, job.outpath, job.repeat)
    stage = replace(job.stage, method="ast", keep_source=False)
    ast = replace(
        job, stage=stage, start=source_start(job.backbone), folder=job.folder / "ast", title=f"{job.title}: AST"
    )
    run_stage(ast, journal, signals)
    return ast.folder / BEST


def load_spatial_attention(path: Path, backbone: BackboneSettings, image_size: int) -> AttentiveTerm:
    """The attentive modules of a trained AST.

    Raises:
        CheckpointError: it is damaged, holds none, or those of other layers.
    """
    checkpoint = load_checkpoint(path)
    layers = aligned_layers(backbone)
    state = attention_state(checkpoint, Spatial)
    if not state:
        raise CheckpointError(
            f"{path}: holds no spatial attention (method {checkpoint.method or 'unknown'}); name an AST"
        )
    if (checkpoint.backbone, tuple(checkpoint.aligned_layers)) != (backbone.name, layers):
        raise CheckpointError(
            f"{path}: its attention is over {', '.join(checkpoint.aligned_layers)} of {checkpoint.backbone}; "
            f"the config aligns {', '.join(layers)} of {backbone.name}"
        )
    return build_attention(Spatial, state, aligned_shapes(backbone, image_size), path, image_size)


MAKERS: dict[str, Maker] = {
    "channel_weights": Maker("channel_weights.json", lambda shape: shape.channels, compute_channel_weights),
    "mean_attention": Maker("mean_attention.json", lambda shape: shape.height * shape.width, mean_attention),
}
"""Word in a method's row -> how its fixed weights are made."""
