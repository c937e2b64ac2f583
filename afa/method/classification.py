"""Classification losses: pure functions of (B, K) logits and (B,) labels, averaged over the batch.

With one class every loss is 0, as cross-entropy is: there is no other class to spread probability over.
``weights`` are (B,) factors of the images' losses. The sum is divided by B and not by the sum of the weights, so that
the mean over processes that share a batch is the loss of the batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def balanced_weights(images: Sequence[int]) -> Tensor:
    """(K,) weights of the classes, from their numbers of training images: N / (K * images of the class).

    The weights of the N images have the sum N, and those of each class the same sum.
    """
    counts = torch.tensor(images, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy."""
    if weights is None:
        return F.cross_entropy(logits, labels)
    return (weights * F.cross_entropy(logits, labels, reduction="none")).mean()


def label_smoothing(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with 1 - smoothing on the correct class and the rest distributed over the other K - 1."""
    log_probability = logits.log_softmax(dim=1)
    right = log_probability.gather(1, labels[:, None]).squeeze(1)
    others = (log_probability.sum(dim=1) - right) / max(logits.shape[1] - 1, 1)
    losses = -((1 - smoothing) * right + smoothing * others)
    return (losses if weights is None else weights * losses).mean()


def kd_regularization(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Teacher-free distillation, Tf-KD_reg (Yuan et al., CVPR 2020), with the released constants.

    0.9 cross-entropy + 0.1 * 1000 * KL(virtual teacher || prediction). The teacher assigns 0.99
    to the correct class and distributes the rest over the others, softened at temperature 20. As released,
    the divergence is averaged over all B*K elements and the prediction is not softened.
    """
    others = max(logits.shape[1] - 1, 1)
    teacher = logits.new_full(logits.shape, 0.01 / others).scatter(1, labels[:, None], 0.99)
    divergence = F.kl_div(logits.log_softmax(dim=1), (teacher / 20).softmax(dim=1), reduction="none")
    weighted = divergence if weights is None else weights[:, None] * divergence
    return 0.9 * cross_entropy(logits, labels, weights) + 0.1 * 1000 * weighted.sum() / logits.numel()


CLASSIFICATION_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "cross_entropy": cross_entropy,
    "label_smoothing": label_smoothing,
    "kd_regularization": kd_regularization,
}
