"""One step, one epoch, one pass over a test set. Returns numbers, prints nothing, knows no config, opens no file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

from afa.data.loaders import Batch, TestBatch
from afa.method.objectives import Losses, Objective
from afa.networks.features import FeatureNetwork, FrozenSource


@dataclass(frozen=True)
class Learner:
    """What a stage trains: the target and the attention in ``objective``; ``source`` stays as it is."""

    target: FeatureNetwork
    source: FrozenSource | None
    objective: Objective
    optimizer: SGD
    device: torch.device


def train_step(learner: Learner, images: Tensor, labels: Tensor) -> tuple[Losses, Tensor]:
    """One SGD step on normalised (B, 3, S, S) images and (B,) labels -> the losses before it, and the (B, K) logits."""
    images = images.contiguous()
    source_maps = learner.source(images) if learner.source else []
    logits, target_maps = learner.target(images)
    losses = learner.objective(logits, labels, source_maps, target_maps)
    learner.optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    learner.optimizer.step()
    return Losses(*(value.detach() for value in losses)), logits.detach()


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

    def add(self, losses: Losses, logits: Tensor, labels: Tensor) -> None:
        """Add one batch."""
        correct = (logits.argmax(dim=1) == labels).sum()
        seen = torch.ones_like(losses.total)
        means = torch.stack([*losses[:4], seen, correct / len(labels)])
        self.sums += torch.cat([means, losses.entropies]).double() * len(labels)

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
    learner: Learner, batches: Iterable[Batch], sums: TrainSums, after_step: Callable[[int, Losses], None]
) -> None:
    """Train on ``batches``, adding to ``sums``; ``after_step`` gets the batch's size and its losses."""
    learner.target.train()
    for batch in batches:
        losses, logits = train_step(learner, batch.images, batch.labels)
        sums.add(losses, logits, batch.labels)
        after_step(len(batch.labels), losses)


@torch.inference_mode()
def predict(
    target: FeatureNetwork, batches: Iterable[TestBatch], after_batch: Callable[[int], None] = lambda size: None
) -> tuple[Tensor, Tensor]:
    """(N, K) logits, averaged over an image's views, and (N,) labels, both on the CPU, in the batches' order."""
    target.eval()
    logits, labels = [], []
    for batch in batches:
        views, _ = target(batch.views)
        logits.append(views.unflatten(0, (-1, batch.views_per_image)).mean(dim=1).float().cpu())
        labels.append(batch.labels.cpu())
        after_batch(len(batch.labels))
    return torch.cat(logits), torch.cat(labels)


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
