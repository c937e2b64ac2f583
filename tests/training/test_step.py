"""The training step against an independent implementation of SPEC sections 2 and 3, written the obvious way."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from afa.config.settings import ComputeSettings
from afa.errors import ConfigError
from afa.method.catalogue import METHODS
from afa.method.classification import balanced_weights
from afa.method.objectives import required_inputs
from afa.networks.build import build_network, load_backbone
from afa.networks.features import FrozenSource
from afa.training.engine import score, train_step
from afa.training.learner import Start, build_learner, source_start
from afa.training.optim import learning_rate_factor
from tests.learners import demo_learner

LAYERS = ("features.5.conv.2", "features.9.conv.2", "features.13.conv.2", "features.17.conv.2")
ALPHA, BETA, RATE, MOMENTUM = 0.02, 0.01, 0.01, 0.9


def build_source_network(start):
    """The source without any of what makes it fast."""
    network = build_network("mobilenet_v2", 3)
    load_backbone(network, start, "start")
    return network.eval().requires_grad_(False)


class Textbook:
    """Two networks with forward hooks, losses with loops, torch's own SGD over one list of parameters."""

    def __init__(self, learner, start, kind, layout):
        self.kind = kind
        self.attention = copy.deepcopy(list(learner.objective.alignments[kind].attentions))
        self.target = copy.deepcopy(learner.target.network)
        self.source = build_source_network(start)
        self.target.train()
        for network in (self.source, self.target):
            network.to(memory_format=layout)
        self.layout = layout
        self.maps = {}
        for name, network in (("s", self.source), ("t", self.target)):
            for layer in LAYERS:
                key = (name, layer)
                network.get_submodule(layer).register_forward_hook(
                    lambda _m, _i, out, key=key: self.maps.update({key: out})
                )
        parameters = [*self.target.parameters(), *(p for a in self.attention for p in a.parameters())]
        self.optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)

    def alignment(self, batch):
        total = 0.0
        for layer, attend in zip(LAYERS, self.attention, strict=True):
            source, target = self.maps["s", layer].detach(), self.maps["t", layer]
            channels, positions = source.shape[1], source.shape[2] * source.shape[3]
            for image in range(batch):
                d = (target[image] - source[image]).flatten(1)  # (C, HW)
                if self.kind == "spatial":
                    hidden = F.relu(F.linear(source[image].flatten(1).mean(0), attend.fc1.weight))
                    a = torch.softmax(F.linear(hidden, attend.fc2.weight, attend.fc2.bias), 0)
                    total = total + (positions * a * d).norm() ** 2 / (2 * batch)
                else:
                    hidden = F.relu(F.linear(source[image].flatten(1), attend.fc1.weight))
                    a = torch.softmax(F.linear(hidden, attend.fc2.weight).flatten() + attend.bias, 0)
                    total = total + sum(channels * a[c] * d[c].norm() ** 2 for c in range(channels)) / (2 * batch)
        return total

    def step(self, images, labels):
        images = images.contiguous(memory_format=self.layout)
        self.source(images)
        logits = self.target(images)
        head = [self.target.classifier[1].weight, self.target.classifier[1].bias]
        parts = (
            F.cross_entropy(logits, labels),
            sum(p.norm() ** 2 for p in head) / 2,
            self.alignment(len(images)),
        )
        total = parts[0] + BETA * parts[1] + ALPHA * parts[2]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return [value.item() for value in (*parts, total)]


def build(settings_for, method, dtype, *, channels_last):
    """A learner with the demo's source, in ``dtype``, and the start's weights."""
    settings = settings_for(reg_type=method, alpha=ALPHA, beta=BETA, lr=RATE, momentum=MOMENTUM)
    learner, start = demo_learner(settings, seed=3, compute=ComputeSettings(channels_last=channels_last))
    learner.target.network.classifier[0].p = 0.0  # dropout would draw differently in the two
    for module in (learner.target, learner.objective):
        module.to(dtype)
    learner.optimizer.load_state_dict(learner.optimizer.state_dict())  # converts the momentum as well
    if dtype == torch.float64:  # folded in float32, it would stay a rounding error away
        layout = learner.target.memory_format
        source = FrozenSource(build_source_network(start).to(dtype), LAYERS, learner.device, layout)
        learner = replace(learner, source=source)
    learner.target.train()
    return learner, start


def both(settings_for, method, kind, dtype):
    """Our learner and the textbook's, with the same weights, in the same layout."""
    learner, start = build(settings_for, method, dtype, channels_last=True)
    textbook = Textbook(learner, start, kind, torch.channels_last)
    textbook.source.to(dtype)
    return learner, textbook


# A float32 rounding error grows a thousandfold a step here (ReLUs flip, batch-norm over few pixels), whatever the
# implementation; so five steps are compared in float64, and in float32 as many as rounding allows.
@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [(torch.float64, 5, 1e-7), (torch.float32, 2, 1e-4)])
@pytest.mark.parametrize(("method", "kind"), [("ast", "spatial"), ("act", "channel")])
def test_steps_equal_the_textbooks(settings_for, method, kind, dtype, steps, tolerance):
    learner, textbook = both(settings_for, method, kind, dtype)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images = torch.randn(8, 3, 64, 64, generator=generator).to(dtype)
        labels = torch.randint(3, (8,), generator=generator)
        losses = train_step(learner, images, labels).losses
        assert [v.item() for v in losses[:4]] == pytest.approx(textbook.step(images, labels), rel=tolerance)
    if dtype == torch.float64:
        for name, value in textbook.target.state_dict().items():
            torch.testing.assert_close(learner.target.network.state_dict()[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("method", "kind"), [("ast", "spatial"), ("act", "channel")])
def test_one_step_is_the_textbooks_to_a_float32_rounding(settings_for, method, kind):
    learner, textbook = both(settings_for, method, kind, torch.float32)
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    losses = train_step(learner, images, labels).losses
    theirs = textbook.step(images, labels)
    pairs = list(zip(learner.target.network.parameters(), textbook.target.parameters(), strict=True))
    pairs += zip(learner.objective.parameters(), (p for a in textbook.attention for p in a.parameters()), strict=True)
    difference, norm = (
        torch.stack([tensor.norm() for tensor in tensors]).norm()
        for tensors in ([own.grad - plain.grad for own, plain in pairs], [plain.grad for _, plain in pairs])
    )
    assert [value.item() for value in losses[:4]] == pytest.approx(theirs, rel=1e-6)
    assert difference < 5e-6 * norm  # measured: 2e-6, of two ways to add up a map


# In float32 the CPU's batch-norm rounds more in channels_last, and its backward passes, one after the other, multiply
# that: measured here 1e-5 in the losses, 6e-4 in the gradient.
@pytest.mark.parametrize(
    ("dtype", "tolerance", "gradient_tolerance"), [(torch.float64, 1e-10, 1e-10), (torch.float32, 1e-4, 1e-2)]
)
@pytest.mark.parametrize("method", ["ast", "act"])
def test_channels_last_changes_the_rounding_alone(settings_for, method, dtype, tolerance, gradient_tolerance):
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    steps, gradients = [], []
    for channels_last in (True, False):
        learner, _ = build(settings_for, method, dtype, channels_last=channels_last)
        steps.append(train_step(learner, images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])))
        trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
        gradients.append(torch.cat([p.grad.contiguous().flatten() for p in trained]))
    torch.testing.assert_close(steps[0].losses, steps[1].losses, rtol=tolerance, atol=0)
    assert (gradients[0] - gradients[1]).norm() < gradient_tolerance * gradients[1].norm()


def test_stage_two_starts_from_the_whole_of_stage_one(settings_for):
    """The head goes on, and the alignment does not start at 0: batch statistics against stored ones."""
    settings = settings_for(reg_type="act")
    stage_one = build_network("mobilenet_v2", 3).state_dict()
    arguments = {"num_classes": 3, "image_size": 32, "seed": 1, "device": torch.device("cpu")}
    learner = build_learner(
        settings.backbone, settings.stages[0], start=Start(stage_one, "stage one", with_head=True), **arguments
    )
    state = learner.target.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in stage_one.items())
    learner.target.train()
    losses = train_step(learner, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])).losses
    assert losses.alignment > 0


@pytest.mark.parametrize("method", ["l2", "l2_sp", "l2_fe", "dfa", "one_stage"])
def test_every_method_steps_and_adds_up(settings_for, method):
    settings = settings_for(reg_type=method, alpha=0.5)
    stage = settings.stages[0]
    start = build_network("mobilenet_v2", 3).state_dict()
    learner = build_learner(
        settings.backbone,
        stage,
        start=Start(start, "test", with_head=False),
        num_classes=3,
        image_size=32,
        seed=1,
        device=torch.device("cpu"),
    )
    row = METHODS[method]
    assert (learner.source is not None) == ("maps" in required_inputs(row))
    assert stage.weight_decay == (1e-4 if method in ("l2", "l2_fe") else 0.0)
    before = {name: value.clone() for name, value in learner.target.network.state_dict().items()}
    learner.target.train()
    for _ in range(2):
        losses = train_step(learner, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])).losses
    gamma = stage.head_penalty if row.head_penalty else 0.0
    parts = losses.classification + 0.5 * losses.alignment + gamma * losses.head_penalty
    torch.testing.assert_close(losses.total, parts)
    assert (losses.alignment > 0) == bool(row.terms)
    changed = {
        name for name, value in learner.target.network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert any(name.startswith("classifier") for name in changed)
    assert any(name.startswith("features") for name in changed) == row.trains_backbone


def test_the_source_may_be_another_network_than_the_start(settings_for):
    """Table 10: the target starts from stage one, the frozen source is the pre-trained network."""
    settings = settings_for(reg_type="act", keep_source="true")
    pre_trained, stage_one = source_start(settings.backbone), build_network("mobilenet_v2", 3).state_dict()
    learner = build_learner(
        settings.backbone,
        settings.stages[0],
        start=Start(stage_one, "stage one", with_head=True),
        source_from=pre_trained,
        num_classes=3,
        image_size=32,
        seed=1,
        device=torch.device("cpu"),
    )
    network = build_network("mobilenet_v2", 19)
    network.load_state_dict(pre_trained.state)
    maps = []
    network.get_submodule(LAYERS[-1]).register_forward_hook(lambda _module, _inputs, out: maps.append(out))
    images = torch.randn(2, 3, 32, 32)
    network.eval()(images)
    torch.testing.assert_close(learner.source(images).maps[-1], maps[0].detach(), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(learner.target.network.state_dict()[name], value) for name, value in stage_one.items())


def test_the_rate_falls_tenfold_every_six_epochs():
    factors = [learning_rate_factor(epoch, epochs=10, schedule="explr", decay_factor=0.1) for epoch in (0, 3, 6, 9)]
    assert factors == pytest.approx([1, 10**-0.5, 0.1, 0.1 * 10**-0.5])


def test_the_balanced_accuracy_is_the_mean_over_the_classes_that_have_images():
    labels = torch.tensor([0, 0, 0, 2, 2, 2, 2, 0])  # none of class 1 and of class 3
    guesses = torch.tensor([0, 0, 1, 2, 0, 0, 0, 0])
    metrics = score(F.one_hot(guesses, 4).double(), labels)
    assert metrics.top1 == 50.0
    assert metrics.balanced == (75.0 + 25.0) / 2


def test_balanced_class_weights_need_the_sizes_of_the_classes(settings_for):
    settings = settings_for(reg_type="l2", class_weights="balanced")
    options = {"start": source_start(settings.backbone), "num_classes": 3, "image_size": 32, "seed": 1}
    build = partial(build_learner, settings.backbone, settings.stages[0], device=torch.device("cpu"), **options)
    with pytest.raises(ConfigError, match="balanced needs class_images"):
        build()
    torch.testing.assert_close(build(class_images=[6, 2, 4]).objective.class_weights, balanced_weights([6, 2, 4]))
