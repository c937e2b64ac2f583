"""The first step's loss of every method equals its equation (docs/methods.md), written out here in loops."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from afa.method.catalogue import METHODS, Method
from afa.networks.build import build_network
from afa.training.engine import train_step
from tests.learners import demo_learner

LAYERS = ("features.5.conv.2", "features.9.conv.2", "features.13.conv.2", "features.17.conv.2")
SIZES = {"mean_attention": [16, 4, 4, 1], "channel_weights": [32, 64, 96, 320]}
ALPHA, BETA, IMAGES, PROGRESS = 0.3, 0.01, 4, 0.25


class Hooked:
    """What both networks compute from a batch, by forward hooks: the maps of each layer, the heads' inputs, logits."""

    def __init__(self, learner, source, images, divisor=None):
        self.divisor = divisor
        self.maps = {"source": {}, "target": {}}
        self.features = {}
        target = learner.target.network
        hooks = []
        for name, network in (("source", source), ("target", target)):
            for layer in LAYERS:
                hook = self._keeper(self.maps[name], layer)
                hooks.append(network.get_submodule(layer).register_forward_hook(hook))
            head = network.classifier[1]
            hooks.append(head.register_forward_hook(lambda _m, i, _o, name=name: self.features.update({name: i[0]})))
        with torch.no_grad():
            self.old_logits, self.logits = source(images), target(images)
        for hook in hooks:
            hook.remove()
        self.objective = learner.objective

    @staticmethod
    def _keeper(kept, layer):
        return lambda _module, _inputs, output: kept.update({layer: output})

    def pairs(self):
        """Layer's index, source map and difference, both (C, HW), of each layer and image."""
        for index, layer in enumerate(LAYERS):
            source, target = (self.maps[name][layer] for name in ("source", "target"))
            d = target - source
            if self.divisor:  # every loss on maps is quadratic in d
                d = (standardised(target) - standardised(source)) / self.divisor(d[0]) ** 0.5
            for s, difference in zip(source, d, strict=True):
                yield index, s.flatten(1), difference.flatten(1)


def standardised(maps):
    variances = [maps[:, c].var(correction=0) for c in range(maps.shape[1])]
    floor = 0.001 * sum(variances) / len(variances)
    channels = [(maps[:, c] - maps[:, c].mean()) / (v + floor).sqrt() for c, v in enumerate(variances)]
    return torch.stack(channels, dim=1)


def spatial(hooked, weights=None):
    total = 0.0
    for layer, s, d in hooked.pairs():
        positions = s.shape[1]
        if weights is None:
            attend = hooked.objective.alignments["spatial"].attentions[layer]
            a = torch.softmax(attend.fc2.weight @ F.relu(attend.fc1.weight @ s.mean(0)) + attend.fc2.bias, 0)
        else:
            a = weights[layer]
        for j in range(positions):
            total += (positions * a[j] * d[:, j]).norm() ** 2 / (2 * IMAGES)
    return total


def channel(hooked, weights=None):
    total = 0.0
    for layer, s, d in hooked.pairs():
        channels = s.shape[0]
        if weights is None:
            attend = hooked.objective.alignments["channel"].attentions[layer]
            a = torch.softmax((F.relu(s @ attend.fc1.weight.T) @ attend.fc2.weight.T).flatten() + attend.bias, 0)
        else:
            a = weights[layer]
        for c in range(channels):
            total += channels * a[c] * d[c].norm() ** 2 / (2 * IMAGES)
    return total


def delta(hooked, weights):
    return sum(
        len(d) / (2 * d.shape[1]) * weights[layer][c] * d[c].norm() ** 2
        for layer, _, d in hooked.pairs()
        for c in range(len(d))
    )


def distillation(hooked, temperature):
    """Of the old head, which starts as the source's own, on the target's features."""
    old = hooked.objective.terms[-1].head
    total = 0.0
    for logits, features in zip(hooked.old_logits, hooked.features["target"], strict=True):
        wanted = (logits / temperature).exp() / (logits / temperature).exp().sum()
        predicted = (old.weight @ features + old.bias) / temperature
        total -= (wanted * (predicted - predicted.exp().sum().log())).sum() / IMAGES
    return total


def spectral(hooked):
    """The smallest eigenvalue of the Gram matrix is the square of the smallest singular value."""
    features = hooked.features["target"]
    return torch.linalg.eigvalsh(features @ features.T)[0]


TERMS = {
    "ast": lambda hooked, _: spatial(hooked),
    "act": lambda hooked, _: channel(hooked),
    "one_stage": lambda hooked, _: spatial(hooked) + channel(hooked),
    "ast_fixed": spatial,
    "act_fixed": channel,
    "dfa": lambda hooked, _: sum(d.norm() ** 2 / 2 for _, _, d in hooked.pairs()),
    "delta": delta,
    "lwf": lambda hooked, _: distillation(hooked, 2),
    "soft_ft": lambda hooked, _: (1 - PROGRESS) * distillation(hooked, 1),
    "l2_sp": lambda *_: 0.005,  # every weight is moved by 0.1 from its start, see below: n * 0.1 ** 2 / 2
    "bss": lambda hooked, _: spectral(hooked),
    "l2": lambda *_: 0.0,
    "l2_fe": lambda *_: 0.0,
    "ast_and_lwf": lambda hooked, _: spatial(hooked) + distillation(hooked, 2),
}
FIXED = ("ast_fixed", "act_fixed")
# Its terms read different outputs of the networks.
COMBINED = {"ast_and_lwf": Method("AST + LwF", terms=("aligned_maps.Spatial", "old_head.Distillation"))}


# alignment_scale = relative: what the loss of a layer is divided by, for one image's map; with it the layers' mean.
RELATIVE = {name: lambda map_: map_.numel() * len(LAYERS) for name in ("ast", "act", "one_stage", *FIXED)} | {
    "dfa": lambda map_: IMAGES * map_.numel() * len(LAYERS),
    "delta": lambda map_: IMAGES * len(map_) * len(LAYERS),
}


@pytest.mark.parametrize(
    ("name", "scale"),
    [(name, "released") for name in (*METHODS, *COMBINED)] + [(name, "relative") for name in RELATIVE],
)
def test_the_first_steps_loss_is_the_methods_equation(name, scale, settings_for, monkeypatch):
    settings = settings_for(reg_type="ast" if name in COMBINED else name, alpha=ALPHA, beta=BETA, alignment_scale=scale)
    if name in COMBINED:
        monkeypatch.setitem(METHODS, name, COMBINED[name])
        settings = replace(settings, stages=(replace(settings.stages[0], method=name),))
    sizes = SIZES.get(METHODS[name].fixed_weights, ())
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(size, generator=generator).softmax(0) for size in sizes]
    learner, state = demo_learner(settings, image_size=32, fixed_weights=weights)
    learner.objective.set_progress(PROGRESS)
    for module in (learner.target, learner.objective, *([learner.source._extractor] if learner.source else [])):
        module.double()
    source = build_network("mobilenet_v2", 19)
    source.load_state_dict(state)
    source.double().eval()
    learner.target.train()
    learner.target.network.classifier[0].p = 0.0  # dropout would draw other values
    images = torch.randn(IMAGES, 3, 32, 32, generator=generator).double()
    labels = torch.tensor([0, 1, 2, 0])
    hooked = Hooked(learner, source, images, RELATIVE[name] if scale == "relative" else None)

    term = torch.as_tensor(TERMS[name](hooked, [w.double() for w in weights])).item()
    if name == "l2_sp":
        with torch.no_grad():
            for parameter in learner.target.backbone_parameters():
                parameter += 0.1
        term *= sum(parameter.numel() for parameter in learner.target.backbone_parameters())
        with torch.no_grad():
            hooked.logits = learner.target.network(images)
    head = learner.target.network.classifier[1]
    penalty = (head.weight.norm() ** 2 + head.bias.norm() ** 2).item() / 2
    classification = -sum(hooked.logits[i].log_softmax(0)[label] for i, label in enumerate(labels)).item() / IMAGES

    losses = train_step(learner, images, labels).losses
    gamma = 0.0 if name in ("l2", "l2_fe", "bss") else BETA
    assert losses.classification.item() == pytest.approx(classification, rel=1e-9)
    assert losses.alignment.item() == pytest.approx(term, rel=1e-6)
    assert losses.total.item() == pytest.approx(classification + ALPHA * term + gamma * penalty, rel=1e-6)
    assert (term > 0) == bool(METHODS[name].terms)
