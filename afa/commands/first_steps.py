"""Checks of the losses of the first training steps: whether alpha or the learning rate is too large."""

from collections.abc import Sequence
from typing import NamedTuple

from afa.config.settings import StageSettings
from afa.method.catalogue import METHODS
from afa.results.outcomes import format_table
from afa.training.engine import Step

DIVERGES = 10.0
"""Growth of the loss within six steps that a run does not survive.

On the demo data (32 to 224 pixels; AST, ACT, DFA, DELTA and L2, both alignment scales) the loss of runs that learn grew
by a factor of at most 1.5 in six steps, and that of runs that diverge by 17 to 1e32.
"""
UNSTABLE = 2.0
DOMINATES = 50.0
"""Ratio of alpha * alignment to classification at which the classes may hardly be learned.

It is 1 to 25 for alphas that learn, and about 100 in a run that ``grad_clip`` kept finite and that learned nothing.
"""
BALANCED = 5.0
"""The ratio of the alpha that is proposed."""


class FirstSteps(NamedTuple):
    """The first steps of a stage at its full learning rate, in order."""

    title: str
    options: StageSettings
    steps: Sequence[Step]

    @property
    def ratios(self) -> list[float]:
        """Alpha * alignment divided by the classification loss, in each step."""
        losses = [step.losses for step in self.steps]
        return [self.options.alpha * one.alignment.item() / max(one.classification.item(), 1e-12) for one in losses]

    @property
    def growth(self) -> float:
        """The total loss of the last step divided by that of the first."""
        first, last = (step.losses.total.item() for step in (self.steps[0], self.steps[-1]))
        return last / max(first, 1e-12)

    def describe(self) -> str:
        """A table of the first and the last step: the total loss, and the terms of which it is the sum."""
        header = ["step", "classification", "alpha * alignment", "beta * head_penalty", "total", "gradient_norm"]
        rows = []
        for number in sorted({1, len(self.steps)}):
            step = self.steps[number - 1]
            losses = step.losses
            terms = (self.options.alpha * losses.alignment, self.options.head_penalty * losses.head_penalty)
            values = [
                f"{value.item():.4g}" for value in (losses.classification, *terms, losses.total, step.gradient_norm)
            ]
            rows.append([f"{number} of {len(self.steps)}", *values])
        return format_table(header, rows)

    def find_divergence(self) -> str:
        """The reason for which a run would diverge, and a remedy; empty if it would not."""
        return f"{self._growth_text()}: it diverges; {self._advice()}" if self.growth >= DIVERGES else ""

    def find_risk(self) -> str:
        """The reason for which a run may diverge or learn little, and a remedy; empty if there is none."""
        if self.growth >= UNSTABLE:
            return f"{self._growth_text()}: it may diverge; {self._advice()}"
        if self.ratios[0] >= DOMINATES:
            product = f"alpha * alignment is {self.ratios[0]:.3g} times the classification loss"
            return f"{self.title}: {product}: the run may learn little; {self._advice()}"
        return ""

    def _growth_text(self) -> str:
        first, last = (step.losses.total.item() for step in (self.steps[0], self.steps[-1]))
        return f"{self.title}: the loss grew from {first:.3g} to {last:.3g} in {len(self.steps)} steps"

    def _advice(self) -> str:
        if max(self.ratios) < BALANCED:
            return f"try a smaller lr than {self.options.learning_rate:g}"
        advice = f"try alpha = {self.options.alpha * BALANCED / max(self.ratios[0], 10 * BALANCED):.1g}"
        if METHODS[self.options.method].reads_maps and self.options.alignment_scale == "released":
            advice += ", or alignment_scale = relative with alpha = 10"
        return advice
