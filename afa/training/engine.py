"""One step, one epoch, one pass over a test set. Returns numbers, prints nothing, knows no config, opens no file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD

from afa.data.loaders import Batch, TestBatch
from afa.method.objectives import Losses, Objective
from afa.networks.features import FeatureNetwork, FrozenSource
from afa.training.distributed import ALONE, Forward, World, forward_both
from afa.training.precision import Precision, products_in_tf32


@dataclass(frozen=True)
class Learner:
    """What a stage trains: the target and the attention in ``objective``; ``source`` stays as it is.

    ``world``: the processes that train it together, through ``shared``.
    """

    target: FeatureNetwork
    source: FrozenSource | None
    objective: Objective
    optimizer: SGD
    device: torch.device
    precision: Precision
    scaler: GradScaler
    grad_clip: float = 0.0
    world: World = ALONE
    shared: Forward | None = None


class Step(NamedTuple):
    """What one step saw before it changed the weights: losses, the part that was right, and the gradient's L2 norm."""

    losses: Losses
    correct: Tensor
    gradient_norm: Tensor

    @property
    def figures(self) -> dict[str, Tensor]:
        """All scalars by name."""
        return {**dict(zip(Losses._fields[:4], self.losses[:4], strict=True)), "gradient_norm": self.gradient_norm}

    def describe(self) -> str:
        """The scalars as text; waits for the device."""
        return ", ".join(f"{name} {value.item():.4g}" for name, value in self.figures.items())


def train_step(learner: Learner, images: Tensor, labels: Tensor, share: float = 1.0) -> Step:
    """One SGD step on normalised (B, 3, S, S) images and (B,) labels, which are the ``share`` of a batch that is here.

    With ``grad_clip`` above 0, a gradient whose norm over all trained parameters is larger is scaled down to it.
    """
    images, labels = learner.world.fill(images, labels, share)
    with learner.precision.products():
        learner.optimizer.zero_grad(set_to_none=True)  # before the forward pass, so that both need not fit in memory
        logits, losses = _forward_pass(learner, images, labels, share)
        learner.scaler.scale(losses.total).backward(learner.world.gradient(losses.total, share))
        norm = _update(learner)
    correct = (logits.detach().argmax(dim=1) == labels).sum() / len(labels)
    figures = torch.cat([torch.stack([*losses[:4], correct]), losses.entropies]).detach()
    figures = learner.world.mean(figures, share)
    return Step(Losses(figures[0], figures[1], figures[2], figures[3], figures[5:]), figures[4], norm.detach())


def _forward_pass(learner: Learner, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Losses]:
    """(B, K) logits and the losses, in float32 also where the networks compute in 16 bits."""
    precision = learner.precision
    with precision.autocast():
        source_maps = learner.source(images) if learner.source else []
    source_maps = [precision.upcast(map_) for map_ in source_maps]
    if learner.shared:
        return learner.shared(images, labels, source_maps, share)
    return forward_both(learner.target, learner.objective, precision, images, labels, source_maps, share)


def _update(learner: Learner) -> Tensor:
    """Change the weights by their gradients; the gradient's norm before it was clipped."""
    learner.scaler.unscale_(learner.optimizer)
    trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
    norm = get_total_norm([p.grad for p in trained if p.grad is not None])
    if learner.grad_clip:
        clip_grads_with_norm_(trained, learner.grad_clip, norm)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    # fp16 leaves a step out whose gradient overflows, and halves its scale: that is no failure.
    return norm.nan_to_num(0, posinf=0) if learner.scaler.is_enabled() else norm


class TrainFigures(NamedTuple):
    """Means over the images of an epoch; ``entropies`` one for each attentive module; ``top1`` in percent."""

    classification: float
    head_penalty: float
    alignment: float
    total: float
    top1: float
    entropies: list[float]


class TrainSums:
    """Sums over the images seen so far in an epoch, kept on the device: reading them waits for it, adding does not."""

    def __init__(self, attentions: int, device: torch.device) -> None:
        self.sums = torch.zeros(6 + attentions, dtype=torch.float64, device=device)

    def add(self, step: Step, images: int) -> None:
        """Add one batch of so many images."""
        losses = step.losses
        means = torch.stack([*losses[:4], torch.ones_like(losses.total), step.correct])
        self.sums += torch.cat([means, losses.entropies]).double() * images

    def figures(self) -> TrainFigures:
        """The means; waits for the device."""
        classification, penalty, alignment, total, seen, correct, *entropies = self.sums.tolist()
        return TrainFigures(
            classification / seen,
            penalty / seen,
            alignment / seen,
            total / seen,
            100 * correct / seen,
            [entropy / seen for entropy in entropies],
        )


def train_one_epoch(
    learner: Learner, batches: Iterable[Batch], sums: TrainSums, after_step: Callable[[Batch, Step], None]
) -> None:
    """Train on ``batches``, adding to ``sums``; ``after_step`` is called between two steps."""
    learner.target.train()
    for batch in batches:
        step = train_step(learner, batch.images, batch.labels, batch.share)
        sums.add(step, len(batch.indices))
        after_step(batch, step)


CPU_VIEWS = 16
"""Views a forward pass on the CPU, where more are no faster; on a card it is the loader's whole batch.

With fewer, and a single thread, torch does not use oneDNN for convolutions of one pixel.
"""


@products_in_tf32(False)
@torch.inference_mode()
def predict(
    target: FeatureNetwork, batches: Iterable[TestBatch], after_batch: Callable[[int], None] = lambda size: None
) -> tuple[Tensor, Tensor]:
    """(N, K) logits, averaged over an image's views, and (N,) labels, both on the CPU, in the batches' order."""
    network = target.evaluator()
    logits, labels = [], []
    for batch in batches:
        on_cpu = batch.views.device.type == "cpu"
        views = _forward(network, batch.views, CPU_VIEWS if on_cpu else batch.full_size)
        logits.append(views.unflatten(0, (-1, batch.views_per_image)).mean(dim=1).float().cpu())
        labels.append(batch.labels.cpu())
        after_batch(len(batch.labels))
    return torch.cat(logits), torch.cat(labels)


def _forward(network: Callable[[Tensor], Tensor], views: Tensor, size: int) -> Tensor:
    """Logits of (V, 3, S, S) views in passes of one shape, the last filled up with copies.

    Libraries choose their kernels by the number of images, and the kernel decides a logit's last bits. In passes
    of one shape an image's logits are the same whichever images, and how many, are with it.
    """
    logits = []
    for part in views.split(size):
        filled = torch.empty_like(part[:1].expand(size, -1, -1, -1), memory_format=torch.channels_last)
        filled[: len(part)], filled[len(part) :] = part, part[:1]
        logits.append(network(filled)[: len(part)])
    return torch.cat(logits)


class TestFigures(NamedTuple):
    """Over the images of a split: mean cross-entropy, and accuracies in percent."""

    loss: float
    top1: float
    top5: float


def score(logits: Tensor, labels: Tensor) -> TestFigures:
    """(N, K) logits and (N,) labels -> figures; top-5 of fewer than five classes is top-K."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return TestFigures(
        loss=F.cross_entropy(logits.double(), labels).item(),
        top1=100 * hits[:, 0].sum().item() / len(labels),
        top5=100 * hits.any(dim=1).sum().item() / len(labels),
    )
