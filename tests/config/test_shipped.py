"""Shipped configs and demo data, found from any working directory."""

import pytest

from afa.command_line import main
from afa.config.hocon import load_config, load_settings
from afa.config.shipped import SHIPPED_ROOT
from afa.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "run"),
    [("demo", "demo"), ("demo/l2", "demo_l2"), ("hocon_config/demo/l2.hocon", "demo_l2"), ("demo/l2.hocon", "demo_l2")],
)
def test_a_shipped_config_names_the_shipped_data_and_the_own_outpath(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(name, check_files=True)
    assert settings.data.root == str(SHIPPED_ROOT / "demo")
    assert settings.backbone.source_weights == str(SHIPPED_ROOT / "demo/mobilenet_v2_source_fp16.pth")
    assert str(settings.run_path) == f"runs/{run}"


def test_in_the_repository_the_paths_are_those_of_the_config(monkeypatch):
    monkeypatch.chdir(SHIPPED_ROOT)
    assert load_settings("demo").data.root == "demo"  # an unfinished run of an earlier version has the same settings


def test_other_paths_stay_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_settings("demo", ["target_data_dir=demo"]).data.root == "demo"
    (tmp_path / "own.hocon").write_text(
        'target_data_dir = demo\ntarget_dataset = x\nbase_model_name = resnet50\nreg_type = l2\nsource_weights = ""'
    )
    assert load_settings("own.hocon").data.root == "demo"
    published = load_settings("AFA/resnet101_stanford_dogs_120")
    assert (published.data.root, published.backbone.source_weights) == ("data", "")
    assert len(load_config("paper/table_4").cells) == 100


def test_a_file_of_the_working_directory_comes_first_and_a_wrong_name_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^paper/tabel_4: no such file; did you mean 'paper/table_4'\?$"):
        load_settings("paper/tabel_4")
    (tmp_path / "demo").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"^demo:1: nonsense: no '='"):
        load_settings("demo")


def test_help_prints_the_keys_with_their_defaults_and_meanings(capsys):
    assert main(["help"]) == 0
    text = capsys.readouterr().out
    assert "\n  lr                   0.01                 learning rate of backbone" in text
    assert "\n  grid.seeds           5 " in text
    assert max(map(len, text.splitlines())) <= 100
    assert main(["mode=predict", "help"]) == 0
    assert "\n  input                required             an image, a folder of images" in capsys.readouterr().out
    assert main(["help", "lr_scheduler", "mode"]) == 0
    text = capsys.readouterr().out
    assert "lr_scheduler: steplr: multiplied once by gamma" in text
    assert "\n  default: steplr\n  values: steplr, coslr, explr" in text
    assert text.count("\nmode: ") == 2  # of a run, and of a grid
    assert main(["help", "learning"]) == 2
    assert capsys.readouterr().err == "help: unknown key learning\n"
    assert main(["mode=predict", "help", "inpt"]) == 2
    assert capsys.readouterr().err == "help: unknown key inpt; did you mean 'input'?\n"
