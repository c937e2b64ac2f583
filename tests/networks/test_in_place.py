"""What saves maps, against torch's own: the same bits."""

import copy
import operator

import pytest
import torch
from torch import nn

from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.networks.features import FeatureNetwork
from afa.networks.lean import LeanReLU6, make_lean


def test_values_and_gradients_are_torchs_bit_for_bit():
    plain = build_network("mobilenet_v2", 3)
    plain.classifier[0].p = 0.0
    lean = make_lean(copy.deepcopy(plain))
    assert sum(isinstance(module, LeanReLU6) for module in lean.modules()) == 35
    assert list(lean.state_dict()) == list(plain.state_dict())
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for network in (plain, lean):
        network.train()(8 * images).square().sum().backward()
    for mine, theirs in zip(lean.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert torch.equal(lean.eval()(images), plain.eval()(images))


def test_on_the_edges_no_gradient_passes():
    edges = torch.tensor([-1.0, 0.0, 1e-30, 3.0, 6.0, 7.0], requires_grad=True)
    LeanReLU6(inplace=True).train()(edges.clone()).sum().backward()
    assert edges.grad.tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(("name", "sums"), [("mobilenet_v2", 10), ("resnet50", 16)])
def test_residual_sums_are_written_in_place_and_give_the_same_bits(name, sums):
    plain = build_network(name, 3)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    layers = BACKBONES[name].aligned_layers
    lean = FeatureNetwork(copy.deepcopy(plain), layers, torch.contiguous_format)
    graph = lean._extractor[0].train_graph
    assert [node.target for node in graph.nodes if "add" in node.name] == [operator.iadd] * sums
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = {}
    for layer in layers:
        plain.get_submodule(layer).register_forward_hook(lambda _m, _i, out, layer=layer: maps.update({layer: out}))
    logits, lean_maps = lean.train()(images)
    assert torch.equal(logits, plain.train()(images))
    assert all(torch.equal(mine, maps[layer]) for mine, layer in zip(lean_maps, layers, strict=True))
    (logits.square().sum() + sum(map_.square().sum() for map_ in lean_maps)).backward()
    (plain(images).square().sum() + sum(map_.square().sum() for map_ in maps.values())).backward()
    for mine, theirs in zip(lean.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_a_map_that_is_compared_is_not_written_over():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            first = self.conv1(x)
            return self.fc((self.conv2(first) + first).mean((2, 3)))

    network = Residual()
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for layer in ("conv1", "conv2"):
        _, (map_,) = FeatureNetwork(network, [layer])(images)
        first = network.conv1(images)
        assert torch.allclose(map_, first if layer == "conv1" else network.conv2(first))
