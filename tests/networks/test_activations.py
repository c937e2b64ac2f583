"""The lean ReLU6 against torch's own."""

import copy

import torch

from afa.networks.activations import LeanReLU6, make_lean
from afa.networks.build import build_network


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
