"""``alignment_scale = relative``: dimensionless losses, bounded, independent of scale, batch, image size and layers."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from afa.config.settings import BackboneSettings, StageSettings
from afa.method import alignment
from afa.method.alignment import FLOOR, standardise
from afa.method.catalogue import METHODS
from afa.method.objectives import Objective
from afa.method.term import MapShape, Outputs, TermInputs
from afa.networks.build import build_network, head_keys
from afa.training.learner import Start, aligned_shapes, build_learner

LOSSES = {
    "dfa": alignment.relative_feature_map_alignment,
    "ast": alignment.relative_spatial_alignment,
    "act": alignment.relative_channel_alignment,
    "delta": alignment.relative_delta_alignment,
}
BY_POSITION = ("ast",)
OF_MAPS = ("ast", "act", "one_stage", "ast_fixed", "act_fixed", "dfa", "delta")
RESNET_18 = tuple(f"layer{number}.1.conv2" for number in range(1, 5))


def maps(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Source and target, whose channels have different scales, in float64; the target requires its gradient."""
    generator = torch.Generator().manual_seed(seed)
    source, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    scales = 2 ** torch.linspace(-1, 1, shape[1], dtype=torch.float64).view(1, -1, 1, 1)
    return source * scales + 5, (3 * (source + noise) * scales - 7).requires_grad_()


def uniform(method: str, source: Tensor) -> tuple[Tensor, ...]:
    """The uniform weights of a method, if it has weights."""
    batch, channels, height, width = source.shape
    count = height * width if method in BY_POSITION else channels
    return () if method == "dfa" else (source.new_full((batch, count), 1 / count),)


def loss_of(method: str, source: Tensor, target: Tensor) -> Tensor:
    return LOSSES[method](source, target, *uniform(method, source))


@pytest.mark.parametrize("method", LOSSES)
@pytest.mark.parametrize("shape", [(4, 5, 3, 3), (1, 5, 6, 6), (6, 5, 1, 1)], ids=["maps", "one image", "one pixel"])
def test_with_uniform_weights_it_is_half_the_mean_squared_difference_of_standardised_maps(method, shape):
    source, target = maps(*shape)
    standardised = []
    for map_ in (source, target):
        variances = [map_[:, c].var(correction=0) for c in range(shape[1])]
        floor = FLOOR * sum(variances) / len(variances)
        channels = [(map_[:, c] - map_[:, c].mean()) / (v + floor).sqrt() for c, v in enumerate(variances)]
        standardised.append(torch.stack(channels, dim=1))
    expected = ((standardised[0] - standardised[1]) ** 2).mean() / 2
    (gradient,) = torch.autograd.grad(expected, target)
    loss = loss_of(method, source, target)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(target.grad, gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", LOSSES)
def test_the_scale_of_a_map_cancels_and_that_of_a_channel_nearly(method):
    source, target = maps(8, 4, 5, 5)
    loss = loss_of(method, source, target)
    torch.testing.assert_close(loss_of(method, 1e6 * source, 1e-6 * target), loss, rtol=1e-9, atol=0)
    channels = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, -1, 1, 1)
    torch.testing.assert_close(loss_of(method, source * channels, target / channels), loss, rtol=0.02, atol=0)


@pytest.mark.parametrize("method", LOSSES)
def test_it_is_between_0_for_the_same_map_and_2_for_the_opposite_one(method):
    source, _ = maps(8, 4, 5, 5)
    assert loss_of(method, source, 3 * source + 1).item() == pytest.approx(0, abs=1e-12)
    assert 1.9 < loss_of(method, source, -source).item() <= 2


def test_weights_act_as_in_the_released_losses():
    source, target = maps(4, 3, 2, 2)
    d = (standardise(target) - standardise(source)).detach()
    positions, channels = torch.rand(4, 4).double().softmax(1), torch.rand(4, 3).double().softmax(1)
    spatial = sum(
        (4 * positions[b, 2 * h + w]) ** 2 * d[b, c, h, w] ** 2
        for b, c, h, w in itertools.product(range(4), range(3), range(2), range(2))
    )
    channel = sum(3 * channels[b, c] * d[b, c].norm() ** 2 for b, c in itertools.product(range(4), range(3)))
    size = 2 * source.numel()
    torch.testing.assert_close(LOSSES["ast"](source, target, positions), spatial / size)
    for method in ("act", "delta"):
        torch.testing.assert_close(LOSSES[method](source, target, channels), channel / size)


def test_a_constant_channel_is_0_and_its_gradient_is_finite():
    _, target = maps(4, 3, 2, 2)
    with torch.no_grad():
        target[:, 1] = 7
    assert standardise(target)[:, 1].eq(0).all()
    weights = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda map_: (weights * standardise(map_)).sum(), (target,))


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (1, 3, 1, 1)], ids=["constant", "a value per channel"])
@pytest.mark.parametrize("method", LOSSES)
def test_a_constant_map_has_no_gradient(method, shape):
    source = torch.randn(shape)
    target = torch.full(shape, 3.0, requires_grad=True)
    loss = loss_of(method, source, target)
    loss.backward()
    assert loss.item() == pytest.approx(0 if shape[0] == 1 else 0.5, rel=0.05)
    assert target.grad.eq(0).all()


@pytest.mark.parametrize("method", LOSSES)
def test_maps_of_16_bits_are_compared_in_float32(method):
    source, target = maps(4, 3, 6, 6)
    halves = [(200 * map_.detach()).half() for map_ in (source, target)]  # their variances overflow in float16
    assert halves[1].square().mean().isinf()
    loss = loss_of(method, *halves)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_of(method, source, target).item(), rel=0.01)


def objective(method: str, layers: int, scale: str = "relative") -> Objective:
    """With uniform weights, for maps of 3 channels and 2 x 2 positions."""
    shape = MapShape(3, 2, 2)
    size = 4 if method == "ast_fixed" else 3
    inputs = TermInputs([shape] * layers, scale, fixed_weights=[torch.full((size,), 1 / size)] * layers)
    torch.manual_seed(0)
    built = Objective(METHODS[method], inputs, head=[torch.ones(1)], alpha=1.0, gamma=0.0).double()
    for parameter in built.parameters():
        nn.init.zeros_(parameter)
    return built


@pytest.mark.parametrize("method", OF_MAPS)
def test_alpha_does_not_depend_on_the_number_of_layers_of_images_and_of_processes(method):
    """All images twice in one process, and once in each of two: the same loss."""
    source, target = (map_.detach() for map_ in maps(4, 3, 2, 2))
    logits, labels = torch.zeros(8, 2, dtype=torch.float64), torch.zeros(8, dtype=torch.long)

    def loss(count: int, layers: int, processes: int = 1) -> Tensor:
        built = objective(method, layers)
        built.summed_factor = float(processes)
        outputs = [
            Outputs((map_.repeat(count, 1, 1, 1),) * layers, None, logits[: 4 * count]) for map_ in (source, target)
        ]
        return built(*outputs, labels[: 4 * count]).alignment

    expected = loss_of("dfa", source, target) * len(METHODS[method].terms)
    for found in (loss(1, 4), loss(1, 12), loss(2, 4), loss(1, 4, processes=2)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["ast", "act", "dfa", "delta"])
@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v2", ()), ("resnet18", RESNET_18), ("resnet50", ())])
def test_the_first_loss_of_each_layer_has_the_size_of_the_classification_loss(name, layers, method):
    """Random weights, whose maps in the source are a thousand times smaller or larger than those in the target."""
    torch.manual_seed(0)
    network = build_network(name, 10)
    state = {key: value for key, value in network.state_dict().items() if key not in head_keys(network)}
    backbone = BackboneSettings(name=name, aligned_layers=layers)
    learner = build_learner(
        backbone,
        StageSettings(method=method, alpha=1.0, alignment_scale="relative"),
        start=Start(state, "random", with_head=False),
        num_classes=3,
        image_size=64,
        seed=1,
        device=torch.device("cpu"),
        fixed_weights=[torch.rand(shape.channels).softmax(0) for shape in aligned_shapes(backbone, 64)],
    )
    learner.target.train()
    losses: list[Tensor] = []
    (term,) = learner.objective.terms
    term.combine = lambda found: losses.extend(found) or torch.stack(found).mean()
    images = torch.randn(4, 3, 64, 64)
    learner.objective(learner.source(images), learner.target(images), torch.tensor([0, 1, 2, 0]))
    assert len(losses) == 4
    assert all(0.02 < loss.item() < 2 for loss in losses)
