"""Classification losses: pure functions of (B, K) logits and (B,) labels, averaged over the batch.

With one class every loss is 0, as cross-entropy is: there is no other class to spread probability over.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def label_smoothing(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with 1 - smoothing on the correct class and the rest distributed over the other K - 1."""
    log_probability = logits.log_softmax(dim=1)
    right = log_probability.gather(1, labels[:, None]).squeeze(1)
    others = (log_probability.sum(dim=1) - right) / max(logits.shape[1] - 1, 1)
    return -((1 - smoothing) * right + smoothing * others).mean()


def kd_regularization(logits: Tensor, labels: Tensor) -> Tensor:
    """Teacher-free distillation, Tf-KD_reg (Yuan et al., CVPR 2020), with the released constants.

    0.9 cross-entropy + 0.1 * 1000 * KL(virtual teacher || prediction). The teacher assigns 0.99
    to the correct class and distributes the rest over the others, softened at temperature 20. As released,
    the divergence is averaged over all B*K elements and the prediction is not softened.
    """
    others = max(logits.shape[1] - 1, 1)
    teacher = logits.new_full(logits.shape, 0.01 / others).scatter(1, labels[:, None], 0.99)
    divergence = F.kl_div(logits.log_softmax(dim=1), (teacher / 20).softmax(dim=1), reduction="sum") / logits.numel()
    return 0.9 * F.cross_entropy(logits, labels) + 0.1 * 1000 * divergence


CLASSIFICATION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "label_smoothing": label_smoothing,
    "kd_regularization": kd_regularization,
}
