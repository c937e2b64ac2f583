"""Operations in place against torch's own: the same bits."""

import copy
import operator

import pytest
import torch
from torch import nn

from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.networks.features import FeatureNetwork
from afa.networks.graph_rewrites import InPlaceReLU6, replace_relu6


def test_values_and_gradients_are_torchs_bit_for_bit():
    plain = build_network("mobilenet_v2", 3)
    plain.classifier[0].p = 0.0
    saving = replace_relu6(copy.deepcopy(plain))
    assert sum(isinstance(module, InPlaceReLU6) for module in saving.modules()) == 35
    assert list(saving.state_dict()) == list(plain.state_dict())
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for network in (plain, saving):
        network.train()(8 * images).square().sum().backward()
    for own, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, theirs.grad)
    assert torch.equal(saving.eval()(images), plain.eval()(images))


def test_on_the_edges_no_gradient_passes():
    edges = torch.tensor([-1.0, 0.0, 1e-30, 3.0, 6.0, 7.0], requires_grad=True)
    InPlaceReLU6(inplace=True).train()(edges.clone()).sum().backward()
    assert edges.grad.tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(("name", "sums"), [("mobilenet_v2", 10), ("resnet50", 16)])
def test_residual_sums_are_written_in_place_and_give_the_same_bits(name, sums):
    plain = build_network(name, 3)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    layers = BACKBONES[name].aligned_layers
    saving = FeatureNetwork(copy.deepcopy(plain), layers, torch.contiguous_format)
    graph = saving.extractor.graph
    assert [node.target for node in graph.nodes if "add" in node.name] == [operator.iadd] * sums
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = {}
    for layer in layers:
        plain.get_submodule(layer).register_forward_hook(lambda _m, _i, out, layer=layer: maps.update({layer: out}))
    outputs = saving.train()(images)
    assert torch.equal(outputs.logits, plain.train()(images))
    assert all(torch.equal(own, maps[layer]) for own, layer in zip(outputs.maps, layers, strict=True))
    (outputs.logits.square().sum() + sum(map_.square().sum() for map_ in outputs.maps)).backward()
    (plain(images).square().sum() + sum(map_.square().sum() for map_ in maps.values())).backward()
    for own, theirs in zip(saving.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, theirs.grad)


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
        (map_,) = FeatureNetwork(network, [layer])(images).maps
        first = network.conv1(images)
        assert torch.allclose(map_, first if layer == "conv1" else network.conv2(first))
