"""Aligned layers, parameter counts, and weights from a file to a network."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models

from afa.config.settings import BackboneSettings, StageSettings
from afa.errors import CheckpointError, ConfigError
from afa.method.catalogue import METHODS
from afa.method.objectives import Objective
from afa.method.term import TermInputs
from afa.networks.backbones import BACKBONES, layers_of, torchvision_names
from afa.networks.build import block_ends, build_network, find_layers, head_name, load_backbone, read_old_head
from afa.networks.features import FeatureNetwork, FrozenSource
from afa.networks.weights import load_file_safely, load_state, state_dict_of
from afa.training.checkpoint import Checkpoint
from afa.training.learner import Start, build_learner, build_target

TABLE_6 = {"resnet101": (405_475, 204_600), "inception_v3": (819_041, 409_638), "mobilenet_v2": (56_791, 28_358)}
MAPS = {
    "resnet101": [(256, 56), (512, 28), (1024, 14), (2048, 7)],
    "resnet50": [(256, 56), (512, 28), (1024, 14), (2048, 7)],
    "mobilenet_v2": [(32, 28), (64, 14), (96, 14), (320, 7)],
    "inception_v3": [(192, 71), (288, 35), (768, 17), (2048, 8)],
}


@pytest.mark.parametrize("name", BACKBONES)
def test_aligned_maps_and_attention_parameters(name):
    backbone = BACKBONES[name]
    target = FeatureNetwork(build_network(name, 10), backbone.aligned_layers)
    shapes = target.map_shapes(backbone.image_size)
    assert [(shape.channels, shape.height) for shape in shapes] == MAPS[name]
    assert all(shape.height == shape.width for shape in shapes)
    if name in TABLE_6:
        counts = tuple(
            sum(p.numel() for p in Objective(METHODS[m], TermInputs(shapes), head=(), alpha=1, gamma=1).parameters())
            for m in ("ast", "act")
        )
        assert counts == TABLE_6[name]


TABLE_11 = {
    ("resnet101", 8): (
        "layer1.1 layer1.2 layer2.1 layer2.3 layer3.11 layer3.22 layer4.1 layer4.2",
        [(256, 56)] * 2 + [(512, 28)] * 2 + [(1024, 14)] * 2 + [(2048, 7)] * 2,
    ),
    ("resnet101", 12): (
        "layer1.0 layer1.1 layer1.2 layer2.0 layer2.2 layer2.3 layer3.7 layer3.14 layer3.22 layer4.0 layer4.1 layer4.2",
        [(256, 56)] * 3 + [(512, 28)] * 3 + [(1024, 14)] * 3 + [(2048, 7)] * 3,
    ),
    ("mobilenet_v2", 8): (
        "features.3 features.5 features.7 features.9 features.11 features.13 features.15 features.17",
        [(24, 56), (32, 28), (64, 14), (64, 14), (96, 14), (96, 14), (160, 7), (320, 7)],
    ),
}


@pytest.mark.parametrize(("name", "number"), TABLE_11)
def test_more_layers_are_spread_evenly_over_the_stages(name, number):
    blocks, shapes = TABLE_11[name, number]
    layers = layers_of(name, number)
    ending = ".conv3" if name == "resnet101" else ".conv.2"
    assert layers == tuple(f"{block}{ending}" for block in blocks.split())
    maps = FeatureNetwork(build_network(name, 2), layers).map_shapes(224)
    assert [(shape.channels, shape.height) for shape in maps] == shapes
    assert layers_of(name, 4) == layers_of(name, ()) == BACKBONES[name].aligned_layers


def test_a_network_without_a_row_has_the_layers_that_are_named():
    assert layers_of("resnet18", ("layer1",)) == ("layer1",)
    assert layers_of("resnet18", ()) == ()
    with pytest.raises(ValueError, match="4 layers cannot be distributed"):
        layers_of("resnet18", 4)


REGNET = ((1, 0), (2, 2), (3, 5), (4, 5))
EFFICIENT = (("2.1", 3), ("3.1", 3), ("5.2", 3), ("7.0", 3))
FOUND = {
    "resnet18": ("layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"),
    "resnet101": BACKBONES["resnet101"].aligned_layers,  # the rule finds the paper's layers
    "efficientnet_b0": tuple(f"features.{block}.block.{last}" for block, last in EFFICIENT),
    "regnet_y_400mf": tuple(
        f"trunk_output.block{n}.block{n}-{last}.f.c" for n, last in ((1, 0), (2, 2), (3, 5), (4, 5))
    ),
    "vgg11": ("features.3", "features.8", "features.13", "features.18"),
    "densenet121": tuple(f"features.denseblock{n}" for n in (1, 2, 3, 4)),  # concatenated: the blocks themselves
    "shufflenet_v2_x0_5": ("stage2.3", "stage3.3", "stage3.7", "stage4.3"),  # three sizes of maps
}


@pytest.mark.parametrize("name", FOUND)
def test_the_layers_of_other_networks_are_found_by_the_sizes_of_their_maps(name):
    assert find_layers(name, 4) == FOUND[name]
    network = build_network(name, 2).to("meta")
    for count in (4, 8) if name == "vgg11" else (4, 8, 12):
        layers = find_layers(name, count)
        maps = FeatureNetwork(network, layers).map_shapes(224)
        assert len(set(layers)) == len(maps) == count
        assert [shape.height for shape in maps] == sorted((shape.height for shape in maps), reverse=True)
        assert maps[-1].height == (14 if name == "vgg11" else 7)


def test_a_network_without_maps_is_refused():
    with pytest.raises(ConfigError, match="vit_b_16 has 1 convolutions with a map, fewer than 4"):
        find_layers("vit_b_16", 4)


def test_finding_layers_does_not_draw_random_numbers():
    before = torch.get_rng_state()
    block_ends.cache_clear()
    find_layers("resnet18", 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_names_read_from_torchvisions_files_are_its_networks():
    assert torchvision_names() == sorted(list_models(module=torchvision.models))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_features_are_the_heads_input(name):
    network = build_network(name, 5)
    outputs = FeatureNetwork(network, (), with_features=True).train()(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(network.get_submodule(head_name(network))(outputs.features), outputs.logits)


@pytest.mark.parametrize("name", ["inception_v3", "mobilenet_v2"])
def test_only_an_auxiliary_head_has_idle_parameters(name):
    network = build_network(name, 2)
    idle = {id(parameter) for parameter in FeatureNetwork(network, ()).idle_parameters()}
    assert idle == {id(p) for name, p in network.named_parameters() if name.startswith("AuxLogits.")}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "contains no classifier.1.weight and classifier.1.bias"),
        ({"classifier.1.weight": torch.zeros(7, 20), "classifier.1.bias": torch.zeros(7)}, "its classifier is (7, 20)"),
    ],
)
def test_a_source_without_a_classifier_that_fits_is_one_line(state, message):
    with pytest.raises(CheckpointError) as error:
        read_old_head(build_network("mobilenet_v2", 3), state, "x.pth")
    assert str(error.value).startswith(f"x.pth: {message}")


@pytest.mark.parametrize("training", [True, False])
def test_maps_and_logits_are_the_networks_own(training):
    network = build_network("mobilenet_v2", 5)
    network.classifier[0].p = 0.0
    layers = BACKBONES["mobilenet_v2"].aligned_layers
    hooked = {}
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out, layer=layer: hooked.update({layer: out.clone()})
        )
    images = torch.rand(2, 3, 64, 64)
    outputs = FeatureNetwork(network, layers).train(training)(images)
    hooked.clear()
    expected = network.train(training)(images)
    torch.testing.assert_close(outputs.logits, expected)
    for layer, map_ in zip(layers, outputs.maps, strict=True):
        torch.testing.assert_close(map_, hooked[layer])


def test_an_in_place_activation_does_not_change_an_aligned_map():
    network = get_model("vgg11", weights=None, num_classes=3)
    target = FeatureNetwork(network, ["features.3"])  # a convolution with an in-place ReLU right behind it
    (raw,) = target.eval()(torch.rand(1, 3, 64, 64)).maps
    assert (raw < 0).any()


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_buffers_that_a_graph_reads_itself_are_on_the_device_of_the_network(name):
    """Swin's tables of relative positions."""
    backbone, state = BackboneSettings(name), build_network(name, 3).state_dict()
    learner = build_learner(
        backbone,
        StageSettings("lwf", alpha=1.0),
        start=Start(state, "test", with_head=True),
        num_classes=3,
        image_size=224,
        seed=1,
        device=torch.device("meta"),
    )
    trained = build_target(backbone, Checkpoint(state), Path(), "abc", torch.device("meta"))
    modules = [learner.source._extractor, learner.objective]
    modules += [target.train(mode).extractor for target in (learner.target, trained) for mode in (True, False)]
    for module in modules:
        assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {"meta"}


def test_state_dict_keys_stay_torchvisions():
    target = FeatureNetwork(build_network("resnet50", 7), BACKBONES["resnet50"].aligned_layers)
    assert list(target.network.state_dict()) == list(get_model("resnet50", weights=None).state_dict())
    assert head_name(target.network) == "fc"
    assert len(target.head_parameters()) + len(target.backbone_parameters()) == len(list(target.network.parameters()))


def test_the_source_stays_as_it_is():
    network = build_network("mobilenet_v2", 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    source = FrozenSource(network, ["features.5.conv.2"], torch.device("cpu"))
    (first,), (second,) = source(torch.rand(2, 3, 32, 32)).maps, source(torch.rand(2, 3, 32, 32)).maps
    assert not first.requires_grad
    assert first.shape == second.shape
    assert not isinstance(source, nn.Module)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_source_runs_no_further_than_its_last_aligned_layer():
    network = build_network("mobilenet_v2", 2)
    source = FrozenSource(network, ["features.5.conv.2"], torch.device("cpu"))
    reached = []
    for number, block in enumerate(network.features):
        for module in block.modules():
            module.register_forward_hook(lambda *_, number=number: reached.append(number))
    source(torch.rand(1, 3, 32, 32))
    assert max(reached) == 5


def test_an_unknown_layer_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no layer layer1\.2\.convv3; did you mean 'layer1\.2\.conv3'"):
        FeatureNetwork(build_network("resnet50", 2), ["layer1.2.convv3"])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_source_weights_come_bare_or_wrapped_with_or_without_head(tmp_path, wrap, prefix):
    stored = build_network("mobilenet_v2", 1000)
    state = {
        prefix + name: value
        for name, value in stored.state_dict().items()
        if not name.startswith("classifier") or prefix
    }
    torch.save(wrap(state), tmp_path / "source.pth")
    network = build_network("mobilenet_v2", 3)
    load_backbone(network, state_dict_of(load_file_safely(tmp_path / "source.pth"), tmp_path), "source.pth")
    assert torch.equal(network.features[17].conv[2].weight, stored.features[17].conv[2].weight)
    assert network.classifier[1].weight.shape == (3, 1280)


def test_counters_in_half_precision_are_accepted():
    """A file in which every value was rounded; other numbers of another kind are named."""
    network = build_network("mobilenet_v2", 3)
    state = {name: value.half() for name, value in network.state_dict().items()}
    load_state(network, state, "x.pth")
    state["features.0.0.weight"] = state["features.0.0.weight"].to(torch.int32)
    with pytest.raises(CheckpointError, match=r"fit the network: features.0.0.weight has the type torch.int32, the"):
        load_state(network, state, "x.pth")


def test_weights_that_do_not_fit_are_named_key_by_key():
    state = build_network("mobilenet_v2", 3).state_dict()
    state["features.0.0.weight"] = torch.zeros(1)
    state["stray"] = state.pop("features.0.1.bias")
    with pytest.raises(CheckpointError) as error:
        load_state(build_network("mobilenet_v2", 3), state, "x.pth")
    for message in (
        "missing features.0.1.bias",
        "unexpected stray",
        "features.0.0.weight is (1,), the network's (32, 3, 3, 3)",
    ):
        assert message in str(error.value)


class _Code:
    """A pickle of this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"model": _Code(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_file_safely(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, content):
    path = tmp_path / "broken.pth"
    if content is None:
        torch.save({"a": torch.zeros(1000)}, path)
        content = path.read_bytes()[:-200]
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_file_safely(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_offline_says_which_file_to_put_where(monkeypatch, tmp_path):
    from urllib.error import URLError

    from afa.networks.build import load_source_weights

    def offline(*_args, **_kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(CheckpointError) as error:
        load_source_weights("mobilenet_v2", "")
    file = "mobilenet_v2-b0353104.pth"
    assert f"save https://download.pytorch.org/models/{file} as {tmp_path}/hub/checkpoints/{file}" in str(error.value)
