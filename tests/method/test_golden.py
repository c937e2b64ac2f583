"""Losses, gradients and weights agree with the authors' release, in float64, to 1e-10."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from afa.method.alignment import (
    channel_alignment,
    delta_alignment,
    delta_channel_weights,
    feature_map_alignment,
    spatial_alignment,
)
from afa.method.attention import ChannelAttention, SpatialAttention
from afa.method.classification import CLASSIFICATION_LOSSES
from afa.method.penalties import head_penalty, l2_sp

GOLDEN = {
    name: torch.from_numpy(value)
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "afa_golden.npz").items()
}
LAYERS = range(3)


def agree(actual: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(actual.detach(), GOLDEN[name], rtol=1e-10, atol=1e-14)


def maps(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    return GOLDEN[f"source_{layer}"], GOLDEN[f"target_{layer}"].clone().requires_grad_()


def attention(kind: str, layer: int) -> nn.Module:
    channels, height, width = GOLDEN[f"source_{layer}"].shape[1:]
    module = SpatialAttention(height, width) if kind == "spatial" else ChannelAttention(channels, height, width)
    module = module.double()
    module.load_state_dict({name: GOLDEN[f"{kind}_{layer}_{name}"] for name in module.state_dict()})
    return module


@pytest.mark.parametrize(("kind", "loss"), [("spatial", spatial_alignment), ("channel", channel_alignment)])
def test_attentive_alignment(kind, loss):
    total = torch.zeros((), dtype=torch.float64)
    pairs, modules = [maps(layer) for layer in LAYERS], [attention(kind, layer) for layer in LAYERS]
    for layer, ((source, target), module) in enumerate(zip(pairs, modules, strict=True)):
        weights = module(source)
        agree(weights.reshape(GOLDEN[f"{kind}_{layer}_attention"].shape), f"{kind}_{layer}_attention")
        total = total + loss(source, target, weights)
    total.backward()
    agree(total, f"{kind}_loss")
    for layer, ((_, target), module) in enumerate(zip(pairs, modules, strict=True)):
        agree(target.grad, f"{kind}_{layer}_grad_target")
        for name, parameter in module.named_parameters():
            agree(parameter.grad, f"{kind}_{layer}_grad_{name}")


def test_feature_map_alignment():
    pairs = [maps(layer) for layer in LAYERS]
    total = sum(feature_map_alignment(source, target) for source, target in pairs)
    total.backward()
    agree(total, "feature_map_loss")
    for layer, (_, target) in enumerate(pairs):
        agree(target.grad, f"feature_map_{layer}_grad_target")


def test_delta_alignment():
    pairs = [maps(layer) for layer in LAYERS]
    weights = [delta_channel_weights(GOLDEN[f"delta_{layer}_loss_increase"]) for layer in LAYERS]
    total = sum(delta_alignment(source, target, w) for (source, target), w in zip(pairs, weights, strict=True))
    total.backward()
    agree(total, "delta_loss")
    for layer, (_, target) in enumerate(pairs):
        agree(weights[layer], f"delta_{layer}_channel_weight")
        agree(target.grad, f"delta_{layer}_grad_target")


def test_penalties():
    now = {name: GOLDEN[f"l2_now_{name}"] for name in ("body.weight", "body.bias", "fc.weight", "fc.bias")}
    body = ["body.weight", "body.bias"]
    agree(l2_sp([now[name] for name in body], [GOLDEN[f"l2_start_{name}"] for name in body]), "l2_sp_loss")
    agree(head_penalty([now["fc.weight"], now["fc.bias"]]), "classifier_loss")


@pytest.mark.parametrize("name", ["cross_entropy", "label_smoothing", "kd_regularization"])
def test_classification(name):
    agree(CLASSIFICATION_LOSSES[name](GOLDEN["logits"], GOLDEN["labels"]), name)
