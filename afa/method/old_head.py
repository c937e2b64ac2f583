"""Terms on the outputs of the old classifier: LwF and soft fine-tuning.

The target keeps the source's own classifier next to its new head, on the same backbone, and continues to train it. The
old classifier belongs to the term, as attentive modules belong to theirs, and is not saved with the trained network.
Its soft labels are the outputs of the frozen source for the same augmented image.
"""

from torch import Tensor, nn

from afa.method.catalogue import LwFSettings
from afa.method.term import Outputs, Term, TermInputs, TermLoss


class OldHeadTerm(Term):
    """Holds the old classifier, initialised with the source's weights."""

    reads = frozenset({"old_head"})

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        assert inputs.old_head is not None
        # Created on "meta": values that are replaced at once must not draw from the random generator.
        weight, bias = (nn.Parameter(values.clone()) for values in inputs.old_head)
        self.head = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.head.weight, self.head.bias = weight, bias

    def distillation(self, source: Outputs, target: Outputs, temperature: float) -> Tensor:
        """-1/B sum_bk y_bk log p_bk, with y = softmax(source logits / T) and p = softmax(old head's logits / T)."""
        assert source.logits is not None
        wanted = (source.logits / temperature).softmax(dim=1)
        predicted = self.head(target.features) / temperature
        return -(wanted * predicted.log_softmax(dim=1)).sum(dim=1).mean()


class Distillation(OldHeadTerm):
    """LwF (Li and Hoiem, Learning without forgetting, TPAMI 2017, eq. 2, 3).

    The distillation loss above over the old classes, at ``LwFSettings.temperature``. ``alpha`` is the paper's lambda_o,
    which is 1 there. Two things differ from the paper: there is no first phase that trains the new head alone, because
    the AFA paper trains all methods in one phase, and the weight decay is set in the config; their paper uses 5e-4.
    """

    name = "lwf"

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        self.temperature = (inputs.settings or LwFSettings()).temperature

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The distillation loss of the source's logits and the target's features."""
        return TermLoss(self.distillation(source, target, self.temperature))


class SoftRemoval(OldHeadTerm):
    """Soft fine-tuning (Zhao et al., Effective domain knowledge transfer with soft fine-tuning, 2019).

    The source's loss is kept, with a weight that falls to 0 during training: (1 - t) L_source, where t is
    the fraction of finished epochs. The paper computes L_source from source images and their labels.
    Source images are not available here, so the source's own soft labels on the target images replace
    them: L_source is the distillation loss above at temperature 1. We chose a weight that is linear in t.
    """

    name = "soft_ft"
    kept: Tensor

    def __init__(self, inputs: TermInputs) -> None:
        super().__init__(inputs)
        # A tensor, because torch.compile would recompile for each new number. Set again after a restart.
        self.register_buffer("kept", self.head.bias.new_ones(()), persistent=False)

    def set_progress(self, done: float) -> None:
        self.kept.fill_(1 - done)

    def forward(self, source: Outputs, target: Outputs) -> TermLoss:
        """The weighted distillation loss of the source's logits and the target's features."""
        return TermLoss(self.kept * self.distillation(source, target, 1.0))
