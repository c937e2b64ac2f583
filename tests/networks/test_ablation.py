"""Channels switched off behind a cut, against full forward passes with a filter zeroed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from afa.method.alignment import delta_channel_weights
from afa.networks import ablation
from afa.networks.ablation import ChannelAblation


class Residual(nn.Module):
    """All that can cross or follow a cut: a bias, an in-place activation, an identity, a batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(6)
        self.cut = nn.Conv2d(6, 6, 3, padding=1)
        self.cut_norm = nn.BatchNorm2d(6)
        self.plain = nn.Conv2d(6, 5, 1)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7), nn.ReLU(inplace=True))
        self.head = nn.Linear(7, 4)

    def forward(self, x):
        x = self.relu(self.stem_norm(self.stem(x)))
        x = self.relu(self.cut_norm(self.cut(x)) + x)
        x = self.block(self.relu(self.plain(x)))
        return self.head(x.mean(dim=(2, 3)))


@pytest.fixture
def network() -> nn.Module:
    """With batch-norm statistics and shifts that are not those of a new network."""
    torch.manual_seed(0)
    network = Residual()
    nn.init.normal_(network.head.weight, std=5.0)
    nn.init.normal_(network.block[0].weight)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


IMAGES, LABELS = torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])


@torch.no_grad()
def naive(network: nn.Module, layer: str) -> torch.Tensor:
    """One full forward pass per filter, with its weights and bias zeroed."""
    unchanged = F.cross_entropy(network(IMAGES), LABELS)
    increases = []
    for channel in range(network.get_submodule(layer).out_channels):
        changed = copy.deepcopy(network)
        changed.get_submodule(layer).weight[channel] = 0
        changed.get_submodule(layer).bias[channel] = 0
        increases.append(F.cross_entropy(changed(IMAGES), LABELS) - unchanged)
    return torch.stack(increases).double()


@pytest.mark.parametrize("layer", ["stem", "cut", "plain", "block.0"])
@pytest.mark.parametrize("at_once", [2**25, 1])
def test_the_increases_are_those_of_full_forward_passes(network, layer, at_once, monkeypatch):
    monkeypatch.setattr(ablation, "VALUES_AT_ONCE", at_once)
    before = copy.deepcopy(network.state_dict())
    wanted = naive(network, layer)
    cut = ChannelAblation(network, layer)
    got = torch.cat(list(cut.increases(IMAGES, LABELS)))
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(delta_channel_weights(got), delta_channel_weights(wanted), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(list(cut.increases(IMAGES, LABELS, first=2))), got[2:])
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_a_block_has_the_channels_of_its_output_switched_off(network):
    kept: list[torch.Tensor] = []
    network.block.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        unchanged = F.cross_entropy(network(IMAGES), LABELS)
        features = kept[0].clone()
        features[:, 3] = 0
        wanted = F.cross_entropy(network.head(features.mean(dim=(2, 3))), LABELS) - unchanged
    got = torch.cat(list(ChannelAblation(network, "block").increases(IMAGES, LABELS)))
    assert got[3].item() == pytest.approx(wanted.item(), abs=1e-6)


def test_filters_that_all_matter_the_same_weigh_the_same():
    assert delta_channel_weights(torch.full((4,), 0.3)).tolist() == [0.25] * 4
