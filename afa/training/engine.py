"""One training step, one epoch, and one pass over a test set, without output and without access to files."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD

from afa.data.loaders import Batch, TestBatch
from afa.method.objectives import Losses, Objective
from afa.method.term import Outputs
from afa.networks.features import FeatureNetwork, FrozenSource
from afa.results.records import rank_classes
from afa.training.numerics import Precision, products_in_tf32


@dataclass(frozen=True)
class Learner:
    """What a stage trains: the target, and the attention in ``objective``. ``source`` is frozen."""

    target: FeatureNetwork
    source: FrozenSource | None
    objective: Objective
    optimizer: SGD
    device: torch.device
    precision: Precision
    scaler: GradScaler
    grad_clip: float = 0.0

    def __repr__(self) -> str:
        terms = ", ".join(term.name for term in self.objective.terms) or "none"
        target = type(self.target.network).__name__
        return f"Learner({target}, terms: {terms}, alpha={self.objective.alpha:g}, on {self.device})"

    @property
    def forward(self) -> nn.Module:
        """Images -> ``Outputs`` of the target."""
        return self.target

    @property
    def losses(self) -> nn.Module:
        """Outputs of source and target, labels -> ``Losses``."""
        return self.objective


class Step(NamedTuple):
    """Results of one step before the update of the weights; ``correct`` is the fraction of correct predictions.

    ``gradient_norm`` is the L2 norm of the gradient before clipping.
    """

    losses: Losses
    correct: Tensor
    gradient_norm: Tensor

    @property
    def scalars(self) -> dict[str, Tensor]:
        """All scalars by name."""
        return {**dict(zip(Losses._fields[:4], self.losses[:4], strict=True)), "gradient_norm": self.gradient_norm}

    def describe(self) -> str:
        """The scalars as text; waits for the device."""
        return ", ".join(f"{name} {value.item():.4g}" for name, value in self.scalars.items())

    def __repr__(self) -> str:
        return f"Step({self.describe()})"


def train_step(learner: Learner, images: Tensor, labels: Tensor) -> Step:
    """One SGD step on normalised (B, 3, S, S) images and (B,) labels.

    With ``grad_clip`` above 0, a gradient with a larger L2 norm over all trained parameters is scaled to that norm.
    """
    precision, scaler, optimizer = learner.precision, learner.scaler, learner.optimizer
    with precision.products(), learner.target.compile_errors():
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, so that both need not fit in memory

        # Source maps, then logits and maps of the target.
        with precision.autocast():
            source = learner.source(images) if learner.source else Outputs()
            target = learner.forward(images)

        # Losses (eq. 4), in float32 even if the networks compute in 16 bits.
        losses = learner.losses(precision.upcast(source), precision.upcast(target), labels)
        correct = (target.logits.argmax(dim=1) == labels).sum() / len(labels)
        del source, target  # backward needs only what autograd saved

        # Backward.
        scaler.scale(losses.total).backward()

        # Clip.
        scaler.unscale_(optimizer)
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        if learner.grad_clip:
            clip_grads_with_norm_(trained, learner.grad_clip, norm)

        # Update. In fp16 the scaler skips a step whose gradient overflows and halves its scale: that is not an error.
        scaler.step(optimizer)
        scaler.update()
    norm = norm.nan_to_num(0, posinf=0) if scaler.is_enabled() else norm
    return Step(Losses(*(value.detach() for value in losses)), correct, norm.detach())


class TrainMetrics(NamedTuple):
    """Means over the images of an epoch; ``entropies``: one for each attentive module; ``top1`` in percent."""

    classification: float
    head_penalty: float
    alignment: float
    total: float
    top1: float
    entropies: list[float]


class TrainSums:
    """Sums over the images of an epoch, on the device: reading them waits for the device, adding does not."""

    def __init__(self, attentions: int, device: torch.device) -> None:
        self.sums = torch.zeros(6 + attentions, dtype=torch.float64, device=device)

    def add(self, step: Step, images: int) -> None:
        """Add one batch of ``images`` images."""
        losses = step.losses
        means = torch.stack([*losses[:4], torch.ones_like(losses.total), step.correct])
        self.sums += torch.cat([means, losses.entropies]).double() * images

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> TrainMetrics:
        """Means over the images added; waits for the device. ``reduce`` combines the sums of several processes."""
        classification, penalty, alignment, total, seen, correct, *entropies = reduce(self.sums).tolist()
        return TrainMetrics(
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
    """Train on ``batches`` and add to ``sums``; ``after_step`` is called between two steps."""
    learner.target.train()
    for batch in batches:
        step = train_step(learner, batch.images, batch.labels)
        sums.add(step, len(batch.indices))
        after_step(batch, step)


CPU_VIEWS = 16
"""Views per forward pass on a CPU, where a larger pass is not faster; on a GPU a pass is the loader's batch.

With fewer views and a single thread, torch does not use oneDNN for convolutions of one pixel.
"""


@products_in_tf32(False)
@torch.inference_mode()
def predict(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[TestBatch],
    after_batch: Callable[[int], None] = lambda size: None,
) -> tuple[Tensor, Tensor]:
    """Return (N, K) logits, averaged over the views of an image, and (N,) labels, on the CPU, in the batches' order.

    ``network`` is a ``FeatureNetwork.evaluator()``: (B, 3, S, S) images -> (B, K) logits.

    All forward passes have the same shape; the last one is padded with copies of its first view. Libraries choose
    kernels by the number of images, and the kernel decides the last bits of a logit: with one shape the logits of
    an image do not depend on the other images.
    """
    logits, labels = [], []
    for batch in batches:
        size = CPU_VIEWS if batch.views.device.type == "cpu" else batch.full_size
        outputs = []
        for chunk in batch.views.split(size):
            padded = torch.empty_like(chunk[:1].expand(size, -1, -1, -1), memory_format=torch.channels_last)
            padded[: len(chunk)], padded[len(chunk) :] = chunk, chunk[:1]
            outputs.append(network(padded)[: len(chunk)])
        logits.append(torch.cat(outputs).unflatten(0, (-1, batch.views_per_image)).mean(dim=1).float().cpu())
        labels.append(batch.labels.cpu())
        after_batch(len(batch.labels))
    return torch.cat(logits), torch.cat(labels)


class TestMetrics(NamedTuple):
    """Mean cross-entropy over the images of a split, and accuracies in percent.

    ``balanced`` is the balanced accuracy: the mean of the accuracies of the classes that have images.
    """

    loss: float
    top1: float
    top5: float
    balanced: float


def score(logits: Tensor, labels: Tensor) -> TestMetrics:
    """Metrics of (N, K) logits and (N,) labels; with fewer than five classes top-5 is top-K."""
    hits = rank_classes(logits) == labels[:, None]
    images, correct = torch.bincount(labels), torch.bincount(labels, weights=hits[:, 0].double())
    return TestMetrics(
        loss=F.cross_entropy(logits.double(), labels).item(),
        top1=100 * hits[:, 0].sum().item() / len(labels),
        top5=100 * hits.any(dim=1).sum().item() / len(labels),
        balanced=100 * (correct / images)[images > 0].mean().item(),
    )
