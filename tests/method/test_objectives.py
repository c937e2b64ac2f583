"""What an objective needs of the networks, how terms are scaled and configured, and losses of a single class."""

import pytest
import torch

from afa.config.hocon import load_settings
from afa.method.catalogue import METHODS, BSSSettings, LwFSettings
from afa.method.classification import CLASSIFICATION_LOSSES, balanced_weights
from afa.method.objectives import Objective, required_inputs
from afa.method.term import MapShape, Outputs, TermInputs
from tests.learners import demo_learner

SHAPE = MapShape(channels=3, height=2, width=2)
LABELS = torch.tensor([0, 1, 1, 0])


def outputs(seed: int) -> Outputs:
    """Of a network with one aligned layer and two classes, for four images."""
    generator = torch.Generator().manual_seed(seed)
    maps, features, logits = (torch.randn(4, *shape, generator=generator) for shape in (SHAPE, (5,), (2,)))
    return Outputs((maps,), features, logits)


def objective(method: str, class_weights: torch.Tensor | None = None, **inputs) -> Objective:
    torch.manual_seed(0)
    inputs = TermInputs(shapes=[SHAPE], old_head=(torch.ones(2, 5).cumsum(0), torch.zeros(2)), **inputs)
    head, alpha, gamma = [torch.ones(1)], 1.0, 0.0
    return Objective(METHODS[method], inputs, head=head, alpha=alpha, gamma=gamma, class_weights=class_weights)


@pytest.mark.parametrize("name", METHODS)
def test_a_row_says_whether_its_terms_read_maps(name):
    assert METHODS[name].reads_maps == ("maps" in required_inputs(METHODS[name]))


@pytest.mark.parametrize(("method", "factor"), [("dfa", 3.0), ("ast", 1.0)])
def test_only_sums_over_a_batch_are_scaled(method, factor):
    plain, scaled = objective(method), objective(method)
    scaled.summed_factor = 3.0
    one, other = (o(outputs(0), outputs(1), LABELS) for o in (plain, scaled))
    assert one.alignment > 0
    torch.testing.assert_close(other.alignment, factor * one.alignment)
    assert other.classification == one.classification


def test_the_temperature_of_lwf_is_a_setting():
    default, two, four = (
        objective("lwf", settings=settings)(outputs(0), outputs(1), LABELS).alignment
        for settings in (None, LwFSettings(2.0), LwFSettings(4.0))
    )
    assert default == two
    assert default != four


@pytest.mark.parametrize("count", [1, 2, 9])
def test_bss_shrinks_as_many_singular_values_as_there_are(count):
    found = outputs(1)
    loss = objective("bss", settings=BSSSettings(count))(outputs(0), found, LABELS).alignment
    squares = torch.linalg.eigvalsh(found.features.double() @ found.features.double().T)
    assert len(squares) == 4
    torch.testing.assert_close(loss, squares[:count].sum().float())


def test_bss_runs_no_source_and_has_the_weight_of_its_paper(words, settings_for):
    settings = load_settings("tests/tiny.hocon", [*words, "reg_type=bss"])
    (stage,) = settings.stages
    assert (stage.alpha, stage.weight_decay, stage.method_settings) == (1e-3, 1e-4, BSSSettings(1))
    assert settings_for(reg_type="bss", alpha=0.01).stages[0].alpha == 0.01
    learner, _ = demo_learner(settings)
    assert learner.source is None


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_with_one_class_the_loss_and_its_gradient_are_zero(name):
    logits = torch.randn(4, 1, requires_grad=True)
    loss = CLASSIFICATION_LOSSES[name](logits, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_a_weighted_loss_is_the_mean_of_the_weighted_losses_of_the_images(name):
    loss, logits, weights = CLASSIFICATION_LOSSES[name], torch.randn(4, 3).double(), torch.tensor([2.0, 0.5, 1.0, 3.0])
    single = torch.stack([loss(logits[i : i + 1], LABELS[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(loss(logits, LABELS, weights), (weights * single).mean())
    torch.testing.assert_close(loss(logits, LABELS, torch.ones(4)), loss(logits, LABELS))


def test_balanced_weights_give_each_class_the_same_share():
    weights = balanced_weights([6, 2, 4])
    torch.testing.assert_close(weights * torch.tensor([6.0, 2.0, 4.0]), torch.full((3,), 4.0))


def test_an_objective_weights_by_class_and_does_not_store_the_weights():
    weights = torch.tensor([0.5, 2.0])
    plain, weighted = objective("ast"), objective("ast", class_weights=weights)
    one, other = (o(outputs(0), outputs(1), LABELS) for o in (plain, weighted))
    expected = CLASSIFICATION_LOSSES["cross_entropy"](outputs(1).logits, LABELS, weights[LABELS])
    torch.testing.assert_close(other.classification, expected)
    assert other.alignment == one.alignment
    assert weighted.state_dict().keys() == plain.state_dict().keys()
