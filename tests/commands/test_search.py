"""The search for alpha and the learning rate: what is trained and decoded, how often, and what is chosen."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from afa.command_line import main
from afa.commands import search
from afa.data import images
from afa.training import loop

RECIPE = ["reg_type=afa", "max_iter=1", "validation_fraction=0.5"]
ALPHAS = ["first_stage.search.alpha=[0.01, 0.02, 1e30]", "second_stage.search.alpha=[0.1, 0.2, 0.3]"]


@pytest.fixture
def command(words) -> list[str]:
    return ["tests/tiny.hocon", *words, *RECIPE, "exp_id=run", "quiet=true"]


def found(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "runs/run.search/search.json").read_text())


def test_each_stage_is_trained_once_for_each_of_its_values_and_each_image_decoded_once(command, tmp_path, monkeypatch):
    """Three values for each of two stages, and the run itself: 3 + 3 + 2 stages."""
    trained, decoded = [], Counter[str]()
    train, read = loop.train_one_epoch, images.read_canvas

    def count_training(learner, *arguments):
        trained.append(learner.objective)
        return train(learner, *arguments)

    def count_decoding(path, make_canvas):
        decoded[f"{path} {make_canvas.__name__}"] += 1
        return read(path, make_canvas)

    monkeypatch.setattr(loop, "train_one_epoch", count_training)
    monkeypatch.setattr(images, "read_canvas", count_decoding)
    assert main([*command, *ALPHAS]) == 0
    assert len(trained) == 8
    held_out = {name: count for name, count in decoded.items() if "/train/" in name and name.endswith("test_canvas")}
    assert set(held_out.values()) == {1}
    assert len(held_out) == 6
    assert set(decoded.values()) == {1, 2}  # training and test images: once for the search, once for the run
    names = {path.name for path in (tmp_path / "runs/run.search").iterdir()}
    stages = [f"stage_1_alpha_{value}" for value in ("0.01", "0.02", "1e+30")]
    assert names == {"search.json", *stages, *(f"stage_2_alpha_{value}" for value in ("0.1", "0.2", "0.3"))}


def test_a_trial_of_stage_two_is_stage_two_of_the_run_on_the_same_images(command, tmp_path):
    """The trial starts from the run of stage one, and has the result that both stages in one run have."""
    repeated = [*command, "search.repeat=2"]
    assert main([*repeated, *ALPHAS[:1], "second_stage.alpha=0.1", "second_stage.search.alpha=[0.1]"]) == 0
    one, two = found(tmp_path)["stages"]
    both = [f"first_stage.alpha={one['alpha']}", "second_stage.alpha=0.1", "repeat=2", "exp_id=both"]
    assert main([*command, *both]) == 0
    result = json.loads((tmp_path / "runs/both/result.json").read_text())
    scores = [stages[-1]["last"]["selection_top1"] for stages in result["repeats"]]
    (tried,) = two["tried"]
    assert (tried["held_out_top1"]["mean"], tried["held_out_top1"]["n"]) == (pytest.approx(sum(scores) / 2), 2)


def test_the_test_images_do_not_score_a_trial(settings_for, monkeypatch):
    class Pool:
        def call(self, *_: object) -> dict:
            return {"repeats": [[{"last": {"selection_top1": 40.0, "test_top1": 90.0}}]]}

    settings = settings_for(validation_fraction=0.5)
    monkeypatch.setattr(search, "train_repeats", lambda settings, pool: settings)
    trial = search._try(settings, 0, settings.stages[0], settings.stages[0], pool=Pool(), decoded={})
    assert trial.score.mean == 40


def test_alpha_and_learning_rate_are_a_product_grid(words, tmp_path, capsys):
    command = ["tests/tiny.hocon", *words, "max_iter=1", "validation_fraction=0.5", "exp_id=run"]
    assert main([*command, "search.alpha=[0.01, 0.02]", "search.lr=[0.001, 1e30]"]) == 0
    (stage,) = found(tmp_path)["stages"]
    assert [(tried["alpha"], tried["lr"]) for tried in stage["tried"]] == [
        (0.01, 0.001),
        (0.01, 1e30),
        (0.02, 0.001),
        (0.02, 1e30),
    ]
    assert [tried["held_out_top1"] is None for tried in stage["tried"]] == [False, True, False, True]
    assert (tmp_path / "runs/run.search/stage_1_alpha_0.01_lr_0.001/result.json").exists()
    settings = (tmp_path / "runs/run/settings.log").read_text()
    assert f"lr = {stage['lr']}\nsearch.lr = []" in settings
    assert f"\nalpha = {stage['alpha']}\n" in settings
    assert "\nsearch.alpha = []\n" in settings
    assert "1 (AST)  0.01   0.001" in capsys.readouterr().out


def test_a_method_without_alpha_searches_for_its_learning_rate(words, tmp_path):
    command = ["tests/tiny.hocon", *words, "max_iter=1", "exp_id=run", "search.alpha=[1]"]
    assert main([*command, "reg_type=l2", "validation_fraction=0.5", "search.lr=[0.001, 0.01]"]) == 0
    (stage,) = found(tmp_path)["stages"]
    assert (stage["method"], len(stage["tried"])) == ("L2", 2)
    assert (tmp_path / "runs/run.search/stage_1_lr_0.001").exists()


def test_a_stage_before_a_searched_one_is_trained_once(command, tmp_path):
    assert main([*command, "first_stage.alpha=0.01", "second_stage.search.alpha=[0.1, 0.2]"]) == 0
    names = {path.name for path in (tmp_path / "runs/run.search").iterdir()}
    assert names == {"search.json", "stage_1", "stage_2_alpha_0.1", "stage_2_alpha_0.2"}
    assert [stage["stage"] for stage in found(tmp_path)["stages"]] == [2]


def test_a_search_without_a_finite_run_is_one_line(words, capsys):
    command = ["tests/tiny.hocon", *words, "max_iter=1", "validation_fraction=0.5", "exp_id=run", "alpha=0.01"]
    assert main([*command, "search.lr=[1e30, 1e31]", "quiet=true"]) == 1
    error = "search: no run ended with finite losses (stage_1_lr_1e+30, stage_1_lr_1e+31); try smaller values\n"
    assert capsys.readouterr().err == error


def test_a_validation_folder_is_held_out_and_all_training_images_are_used(words, data_dir, tmp_path, capsys):
    shutil.copytree(data_dir / "tiny", tmp_path / "data/tiny")
    shutil.copytree(data_dir / "tiny/test", tmp_path / "data/tiny/val")
    command = ["tests/tiny.hocon", *words, f"target_data_dir={tmp_path / 'data'}", "max_iter=1", "exp_id=run"]
    assert main([*command, "search.alpha=[0.01]"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\nstage +alpha +lr +held-out top-1 % +chosen\n", out)
    assert "held-out images: val, after the last epoch\nchosen: AST alpha = 0.01, lr = " in out
    assert (found(tmp_path)["held_out_fraction"], found(tmp_path)["held_out_folder"]) == (0.0, "val")
    trial = json.loads((tmp_path / "runs/run.search/stage_1_alpha_0.01/result.json").read_text())
    assert (trial["data"]["train"]["images"], trial["data"]["held_out"]["images"]) == (12, 9)
