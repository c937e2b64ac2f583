"""The schema: types, bounds and cross-field checks, from plain values."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from afa.config.schema import build_settings
from afa.config.settings import FIELDS, RELEASED_METHODS, Settings, StageSettings, differences
from afa.config.values import Problems
from afa.method.catalogue import LwFSettings

GOOD = {
    "target_dataset": "CUB",
    "target_data_dir": "data",
    "base_model_name": "resnet50",
    "reg_type": "ast",
    "alpha": 0.1,
}


def build(**changes: Any) -> Settings:
    found = Problems()
    settings = build_settings({**GOOD, **changes}, found)
    assert settings is not None, found
    return settings


def problems(*, without: str = "", **changes: Any) -> dict[str, str]:
    """Key -> message, for the good values with changes."""
    values = {key: value for key, value in {**GOOD, **changes}.items() if key != without}
    found = Problems()
    assert build_settings(values, found) is None
    assert len({problem.key for problem in found.found}) == len(found.found), "a key is named twice"
    return dict(found.found)


@pytest.mark.parametrize("key", ["target_dataset", "target_data_dir", "base_model_name", "reg_type", "alpha"])
def test_a_key_without_a_default_is_required(key: str) -> None:
    found = problems(without=key)
    assert list(found) == [key]
    assert found[key].startswith("missing: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", 10**400, "a number of 401 digits is out of range; expected at least 0"),
        ("batch_size", -(10**400), "a number of 401 digits is out of range; expected 1 to 100000"),
        ("lr", -0.1, "-0.1 is out of range; expected at least 0"),
        ("lr", float("nan"), "nan is out of range; expected at least 0"),
        ("momentum", 1.5, "1.5 is out of range; expected 0 to 1"),
        ("lr", "0.01", "expected a number, for example 0.01, got the string '0.01'; write 0.01"),
        ("max_iter", "0.5", "expected an integer, got the string '0.5'"),
        ("max_iter", True, "expected an integer, got true"),
        ("max_iter", 10.0, "expected an integer, got float 10.0"),
        ("resume", 1, "expected true or false, got int 1"),
        ("outpath", 3.5, 'expected a string, got the number 3.5; write "3.5" in quotes'),
        ("outpath", None, "expected a string, got nothing"),
        ("lr", {"x": 1}, "expected a number, for example 0.01, got a block { ... }"),
        (
            "aligned_layers",
            "layer1",
            "expected a list of names, for example [features.9.conv.2, features.17.conv.2], got 'layer1'",
        ),
        ("search.lr", 0.1, "expected a list of numbers, for example [0.003, 0.01], got 0.1"),
        ("bath_size", 3, "unknown key; did you mean 'batch_size'?"),
        ("mode", "evaluate", "unknown value 'evaluate'; did you mean 'eval'? (known: train, eval)"),
        ("first_stage", 3, "expected a block { ... }, got 3"),
        ("first_stage", {"repeat": 2}, "is not a setting of a stage; set it outside the stage blocks"),
        ("second_stage", {}, "there is no first_stage { ... } before it"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(key: str, value: Any, message: str) -> None:
    found = problems(**{key: value})
    assert list(found.values()) == [message]
    assert next(iter(found)).startswith(key)


def test_the_nearest_method_is_offered() -> None:
    assert problems(reg_type="pixel_att_fea_map_lern")["reg_type"].startswith(
        "unknown value 'pixel_att_fea_map_lern'; did you mean 'pixel_att_fea_map_learn'?"
    )


@pytest.mark.parametrize(("released", "ours"), RELEASED_METHODS.items())
def test_released_names_mean_our_methods(released: str, ours: str) -> None:
    assert build(reg_type=released, channel_weight_path="w.json").stages[0].method == ours


@pytest.mark.parametrize(("method", "decay"), [("l2", 1e-4), ("l2_fe", 1e-4), ("l2_sp", 0.0), ("ast", 0.0)])
def test_weight_decay_follows_the_method_unless_given(method: str, decay: float) -> None:
    assert build(reg_type=method).stages[0].weight_decay == decay
    assert build(reg_type=method, weight_decay=0.5).stages[0].weight_decay == 0.5


def test_keys_outside_the_stages_are_their_defaults() -> None:
    settings = build(lr=0.5, first_stage={"reg_type": "ast", "lr": 0.1}, second_stage={"reg_type": "act"})
    assert [(stage.method, stage.learning_rate) for stage in settings.stages] == [("ast", 0.1), ("act", 0.5)]
    assert settings.run_name == "resnet50_CUB_AST_ACT"


def test_alpha_is_required_in_the_stage_whose_method_needs_it() -> None:
    stages = {"first_stage": {"reg_type": "l2"}, "second_stage": {"reg_type": "delta"}}
    assert list(problems(without="alpha", **stages)) == ["second_stage.alpha"]


def test_evaluation_has_no_stage() -> None:
    settings = build(mode="eval", pre_trained_path="best.pth")
    assert (settings.stages, settings.run_name) == ((), "resnet50_CUB_eval")
    assert (settings.run_path, settings.is_searched) == (Path("runs/resnet50_CUB_eval"), False)
    assert build(**{"search.alpha": [1]}).is_searched


@pytest.mark.parametrize(
    ("changes", "size"), [({}, 224), ({"base_model_name": "inception_v3"}, 299), ({"image_size": 64}, 64)]
)
def test_image_size_is_the_backbones_unless_given(changes: dict[str, Any], size: int) -> None:
    assert build(**changes).data.image_size == size


def test_other_backbones_need_their_layers_if_maps_are_read() -> None:
    assert "did you mean 'resnet50'" in problems(base_model_name="resnet5")["base_model_name"]
    assert build(base_model_name="vgg16", aligned_layers=["features.4"]).backbone.aligned_layers == ("features.4",)
    for method in ("l2", "l2_fe", "l2_sp", "lwf", "soft_ft"):
        assert build(base_model_name="vgg16", reg_type=method).backbone.aligned_layers == ()
    assert build(base_model_name="vgg16", mode="eval", pre_trained_path="best.pth").stages == ()
    stages = {"first_stage": {"reg_type": "l2"}, "second_stage": {"reg_type": "dfa"}}
    assert list(problems(base_model_name="vgg16", **stages)) == ["aligned_layers"]


def test_places365_needs_its_file_and_its_network() -> None:
    assert "resnet50_places365" in problems(base_task="places365")["source_weights"]
    assert "resnet50 only" in problems(base_task="places365", base_model_name="resnet101")["base_task"]
    assert build(base_task="places365", pretrain_path="w.pth").backbone.source_weights == "w.pth"


def test_strings_may_be_written_as_integers() -> None:
    settings = build(gpu_id=3, exp_id=7, pre_trained_path=2024, target_dataset=5)
    assert (settings.run.gpu_id, settings.run_name) == ("3", "7")
    assert (settings.run.pre_trained_path, settings.data.dataset) == ("2024", "5")


def test_settings_are_frozen_and_every_field_says_why() -> None:
    with pytest.raises(FrozenInstanceError):
        build().run.repeat = 2  # type: ignore[misc]
    assert [key for key, field in FIELDS.items() if not field.metadata["reason"]] == []


def test_a_recipe_stands_for_its_stages() -> None:
    settings = build(reg_type="afa_source_kept", alpha=0.1, lr=0.5, second_stage={"alpha": 0.2, "lr": 0.05})
    assert [(s.method, s.alpha, s.learning_rate, s.keep_source) for s in settings.stages] == [
        ("ast", 0.1, 0.5, False),
        ("act", 0.2, 0.05, True),
    ]
    assert settings.run_name.endswith("_AST_ACT-source-kept")
    assert [s.method for s in build(reg_type="act_then_ast", alpha=1).stages] == ["act", "ast"]
    assert list(problems(without="alpha", reg_type="afa", first_stage={"alpha": 0.1})) == ["second_stage.alpha"]


def test_a_stage_cannot_contradict_its_recipe() -> None:
    message = "reg_type = afa sets it to ast; remove it"
    assert problems(reg_type="afa", first_stage={"reg_type": "act"}) == {"first_stage.reg_type": message}
    assert build(reg_type="afa", first_stage={"reg_type": "pixel_att_fea_map_learn"}).stages[0].method == "ast"


def test_a_recipe_within_a_stage_is_refused() -> None:
    stages = {"first_stage": {"reg_type": "afa"}, "second_stage": {"reg_type": "act"}}
    assert problems(alpha=0.1, **stages) == {
        "first_stage.reg_type": "afa consists of two stages; set it outside the stage blocks"
    }


@pytest.mark.parametrize(
    ("changes", "epochs", "schedule"),
    [({}, 10, "explr"), ({"max_iter": 9}, 0, "explr"), ({"epochs": 3, "lr_scheduler": "coslr"}, 3, "coslr")],
)
def test_l2_fe_has_ten_epochs_and_its_schedule_by_default(changes, epochs, schedule) -> None:
    stage = build(reg_type="l2_fe", **changes).stages[0]
    assert (stage.epochs, stage.schedule, stage.weight_decay) == (epochs, schedule, 1e-4)


def test_layers_may_be_a_number_that_the_network_can_spread() -> None:
    assert build(aligned_layers=8).backbone.aligned_layers == 8
    assert "6 layers cannot be distributed evenly over the 4 stages" in problems(aligned_layers=6)["aligned_layers"]
    assert "8 layers cannot" in problems(base_model_name="inception_v3", aligned_layers=8)["aligned_layers"]
    assert build(base_model_name="vgg16", aligned_layers=8).backbone.aligned_layers == 8  # found by build.find_layers
    assert problems(aligned_layers=3)["aligned_layers"] == "3 is out of range; expected 4 to 12"


def test_a_network_of_torchvision_needs_layers_only_for_a_method_that_reads_maps() -> None:
    missing = problems(base_model_name="resnet18")
    assert missing.keys() == {"aligned_layers"}
    assert missing["aligned_layers"].startswith("missing for resnet18: set 4, or the names of modules")
    assert build(base_model_name="resnet18", reg_type="l2").backbone.aligned_layers == ()
    assert problems(base_model_name="resnet_18", reg_type="l2") == {
        "base_model_name": "torchvision has no classification network 'resnet_18'; did you mean 'resnet18'?"
    }


def test_a_method_has_settings_of_its_own() -> None:
    stages = {"first_stage": {"reg_type": "ast"}, "second_stage": {"reg_type": "lwf"}}
    settings = build(lwf={"temperature": 3}, **stages)
    assert [stage.method_settings for stage in settings.stages] == [None, LwFSettings(temperature=3.0)]
    assert build(**{**stages, "second_stage": {"reg_type": "lwf", "lwf": {"temperature": 3}}}) == settings
    assert StageSettings(method="lwf").method_settings == LwFSettings()
    assert differences(build(**stages), settings) == ["second_stage.lwf.temperature: 2.0, now 3.0"]
    assert problems(lwf={"temperature": 0, "temprature": 1}) == {
        "lwf.temperature": "0.0 is out of range; expected at least 0.01",
        "lwf.temprature": "unknown key; did you mean 'lwf.temperature'?",
    }
    assert problems(lwf=3) == {"lwf": "expected a block { ... }, got 3"}
