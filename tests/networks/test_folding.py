"""Batch-norms folded into convolutions: the same maps; convolutions whose raw output is compared are not folded."""

import operator

import pytest
import torch
from torch import nn

from afa.networks.backbones import BACKBONES
from afa.networks.build import build_network
from afa.networks.features import FeatureNetwork, FrozenSource

CPU = torch.device("cpu")


def trained(name):
    """A network whose batch-norms have statistics and weights of their own."""
    torch.manual_seed(0)
    network = build_network(name, 100)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
            ):
                value.uniform_(low, high, generator=generator)
    return network.eval()


def hooked(network, layers, images):
    """Maps and logits of the original network, not folded."""
    maps = {}
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(lambda _m, _i, out, layer=layer: maps.update({layer: out}))
    with torch.no_grad():
        logits = network(images)
    return [maps[layer] for layer in layers], logits


# More rounding accumulates over ResNet-50's 53 convolutions, folded or not: there its maps must be as exact as the
# original network's.
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "inception_v3"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_folded_network_gives_the_same_maps_and_logits(name, dtype, tolerance):
    network, layers = trained(name).to(dtype), BACKBONES[name].aligned_layers
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1), dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = FrozenSource(network, layers, CPU)(images).maps
        folded = [*maps, FeatureNetwork(network, layers).evaluator()(images)]
    maps, logits = hooked(network, layers, images)
    exact_maps, exact_logits = hooked(network.double(), layers, images.double())
    for plain, fast, exact in zip([*maps, logits], folded, [*exact_maps, exact_logits], strict=True):
        own, others = ((maps_ - exact).norm() / exact.norm() for maps_ in (fast, plain))
        assert own < max(tolerance, 1.5 * others)


def test_only_a_norm_behind_a_compared_layer_stays():
    network, layers = trained("mobilenet_v2"), BACKBONES["mobilenet_v2"].aligned_layers
    kept = list(FrozenSource(network, layers, CPU)._extractor.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in kept) == 3  # the last layer's is not run


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_a_synchronised_norm_is_folded_and_summed_in_place_as_any_other(name):
    network, layers = trained(name), BACKBONES[name].aligned_layers
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(trained(name))
    plain, synced = FeatureNetwork(network, layers), FeatureNetwork(synchronised, layers)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(synced.evaluator()(images), plain.evaluator()(images))
    counts = [
        [node.target for node in target.train().extractor.graph.nodes].count(operator.iadd)
        for target in (plain, synced)
    ]
    assert counts[0] == counts[1] > 0


def test_the_network_itself_is_not_folded():
    network = trained("mobilenet_v2")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    target = FeatureNetwork(network, ())
    target.evaluator()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_norm_that_is_called_twice_or_feeds_on_a_shared_convolution_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm = nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.norm(self.first(x))
            once = self.second(x)
            return self.fc((self.norm(once) + once).mean((2, 3)))

    network = Shared().eval()
    network.norm.running_mean.fill_(0.3)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(FeatureNetwork(network, ()).evaluator()(images), network(images))
