"""The command line on real images: what a user types, and what is there afterwards."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from afa.command_line import main
from afa.networks.build import build_network
from afa.training import learner, loop
from afa.training.checkpoint import load_checkpoint

CONFIGS = Path("hocon_config")
LOG_COLUMNS = [
    "epoch",
    "clc_loss",
    "classifier_loss",
    "feature_loss",
    "train_total_loss",
    "train_top1_acc",
    "val_loss",
    "val_top1_acc",
]


def same_weights(first: Path, second: Path) -> bool:
    one, two = load_checkpoint(first), load_checkpoint(second)
    return all(torch.equal(two.model[name], value) for name, value in one.model.items()) and all(
        torch.equal(two.attention[name], value) for name, value in one.attention.items()
    )


def test_the_three_published_commands_find_each_others_checkpoints(words, tmp_path, capsys):
    """First stage, second stage, evaluation: three configs, no file edited, no path given."""
    words = [word for word in words if not word.startswith("exp_id")]
    for config in (
        "First_stage_AST/mobilenet_v2_stanford_dogs_120.hocon",
        "Second_stage_ACT/mobilenet_v2_Stanford_dogs_120.hocon",
        "val/mobilenet_v2_Stanford_dogs_120.hocon",
    ):
        assert main([str(CONFIGS / config), *words]) == 0, capsys.readouterr().err
    first, second, evaluation = (tmp_path / "runs" / f"mobilenet_v2_tiny_{name}" for name in ("AST", "AST_ACT", "eval"))
    for run in (first, second):
        for file in (
            "experiment.log",
            "settings.log",
            "log.txt",
            "result.json",
            "check_point/best.pth",
            "check_point/last.pth",
        ):
            assert (run / file).stat().st_size, file
        assert list((run / "tensorboard").iterdir())
        rows = [line.split("\t") for line in (run / "log.txt").read_text().splitlines()]
        assert rows[0] == LOG_COLUMNS
        assert [row[0] for row in rows[1:]] == ["1", "2"]
    trained, evaluated = (json.loads((run / "result.json").read_text()) for run in (second, evaluation))
    assert trained["repeats"][0][0]["start"] == str(first / "check_point/best.pth")
    assert evaluated["checkpoint"] == str(second / "check_point/best.pth")
    assert evaluated["top1"] == trained["best_test_top1"]["mean"]
    with (evaluation / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == evaluated["test_images"] == 9
    assert 100 * sum(int(row["correct"]) for row in predictions) / 9 == pytest.approx(evaluated["top1"])
    with (evaluation / "per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["bag", "sandal", "trouser"]


def test_both_stages_in_one_go_over_two_seeds(words, tmp_path, capsys):
    assert main([str(CONFIGS / "AFA/mobilenet_v2_stanford_dogs_120.hocon"), *words, "repeat=2", "exp_id=afa"]) == 0
    run = tmp_path / "runs" / "afa"
    result = json.loads((run / "result.json").read_text())
    assert [[stage["seed"] for stage in stages] for stages in result["repeats"]] == [[1, 5], [2, 6]]
    assert result["best_test_top1"]["n"] == 2
    assert result["selected_on"] == "test"
    for repeat in (1, 2):
        stage_one, stage_two = (
            load_checkpoint(run / f"repeat_{repeat}/stage_{s}/check_point/best.pth") for s in (1, 2)
        )
        assert (stage_one.method, stage_two.method) == ("ast", "act")
        assert stage_one.classes == ["bag", "sandal", "trouser"]
        assert next(iter(stage_one.attention)) == "alignments.spatial.attentions.0.fc1.weight"
    table = capsys.readouterr().out
    assert "(n=2)" in table
    assert str(run) in table


def test_the_same_command_again_does_nothing_and_the_saved_settings_are_the_same_run(words, tmp_path, capsys):
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run"]
    run = tmp_path / "runs" / "run"
    assert main(command) == 0
    log = (run / "log.txt").stat().st_mtime_ns
    for again in (command, [str(run / "settings.log")], [*command, "num_workers=1", "print_freq=3"]):
        capsys.readouterr()
        assert main(again) == 0
        assert "already finished" in capsys.readouterr().out
    assert (run / "log.txt").stat().st_mtime_ns == log


def test_other_settings_are_refused_and_overwrite_keeps_the_old_run(words, tmp_path, capsys):
    command = ["tests/tiny.hocon", *words, "exp_id=run"]
    run = tmp_path / "runs" / "run"
    assert main([*command, "alpha=0.01", "max_iter=3"]) == 0
    old = (run / "check_point/best.pth").read_bytes()
    assert main([*command, "alpha=0.02", "max_iter=3"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "alpha: 0.01, now 0.02" in error
    assert "overwrite=true" in error
    assert (run / "check_point/best.pth").read_bytes() == old
    assert main([*command, "alpha=0.02", "max_iter=3", "overwrite=true"]) == 0
    assert (run.with_name("run.old-1") / "check_point/best.pth").read_bytes() == old


def test_a_folder_of_something_else_is_left_alone(words, tmp_path, capsys):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "thesis.tex").write_text("x")
    assert main(["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run"]) == 1
    assert "thesis.tex" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir() if path.name != ".lock"] == ["thesis.tex"]


@pytest.mark.parametrize("other", [["num_workers=2", "cache=none"], ["cache=none"]])
def test_workers_and_cache_do_not_change_the_weights(words, tmp_path, other):
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "max_iter=3"]
    assert main([*command, "exp_id=one"]) == 0
    assert main([*command, "exp_id=two", *other]) == 0
    runs = tmp_path / "runs"
    assert same_weights(runs / "one/check_point/last.pth", runs / "two/check_point/last.pth")


def test_a_run_that_was_cut_short_goes_on_and_ends_the_same(words, tmp_path, monkeypatch):
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "max_iter=9"]
    assert main([*command, "exp_id=whole"]) == 0

    write_log = loop.write_log

    def die_after_the_second_epoch(path, history):
        if len(history) == 2:
            raise KeyboardInterrupt
        write_log(path, history)

    monkeypatch.setattr(loop, "write_log", die_after_the_second_epoch)
    assert main([*command, "exp_id=cut"]) == 130
    monkeypatch.undo()
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main([*command, "exp_id=cut"]) == 0
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    assert (cut / "log.txt").read_text() == (whole / "log.txt").read_text()
    for name in ("best", "last"):
        assert same_weights(whole / f"check_point/{name}.pth", cut / f"check_point/{name}.pth")


def test_a_config_of_the_released_code_runs_as_it_is(data_dir, tmp_path, capsys):
    """Flat, old keys, no mode, a card that is not there, windows line ends."""
    config = tmp_path / "released.hocon"
    lines = [
        f'target_data_dir = "{data_dir}"',
        'target_dataset = "tiny"',
        f'outpath = "{tmp_path / "runs"}"',
        'gpu_id = "3"',
        "print_freq = 10",
        "batch_size = 4",
        "num_workers = 0",
        'exp_id = "old"',
        "seed = 1",
        "repeat = 1",
        "lr = 0.01",
        "max_iter = 3",
        "momentum = 0.9",
        "weight_decay = 0.0",
        "gamma = 0.1",
        'base_task = "imagenet"',
        'base_model_name = "mobilenet_v2"',
        "image_size = 32",
        'data_aug = "improved"',
        "alpha = 0.01",
        "beta = 0.01",
        'reg_type = "pixel_att_fea_map_learn"',
        'loss_type = "loss_label_smoothing"',
        'lr_scheduler = "coslr"',
        'channel_weight_path = ""',
        'pre_trained_path = ""',
        f'pretrain_path = "{Path("demo/mobilenet_v2_source_fp16.pth").resolve()}"',
        'resume = ""',
    ]
    config.write_bytes("\r\n".join(lines).encode())
    assert main([str(config)]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert torch.cuda.is_available() or out.count("no CUDA GPU found") == 1


@pytest.fixture
def released(tmp_path) -> Path:
    """A checkpoint as the authors released them: a state dict under ``model``, nothing else."""
    path = tmp_path / "released.pth"
    state = build_network("mobilenet_v2", 3).state_dict()
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)  # as torch 1.1 wrote
    return path


def test_a_released_checkpoint_is_evaluated(words, released, tmp_path, capsys):
    command = [str(CONFIGS / "val/mobilenet_v2_Stanford_dogs_120.hocon"), *words, f"pre_trained_path={released}"]
    assert main(command) == 0, capsys.readouterr().err
    assert "top-1 %  top-5 %" in capsys.readouterr().out
    assert (tmp_path / "runs/mobilenet_v2_tiny_eval/predictions.csv").exists()


def test_a_run_is_evaluated_without_a_config(words, data_dir, tmp_path, capsys, monkeypatch):
    """Network, classes and image size come from the checkpoint; an earlier evaluation is kept."""
    recipe = ["reg_type=afa", "alpha=0.01", "max_iter=3", "exp_id=run", "data_aug=improved"]
    assert main(["tests/tiny.hocon", *words, *recipe]) == 0
    folder = tmp_path / "runs" / "run"
    trained = json.loads((folder / "result.json").read_text())
    command = ["mode=eval", "pre_trained_path=run", f"outpath={tmp_path / 'runs'}", "gpu_id=cpu"]
    assert main(command) == 0
    evaluation = folder / "eval" / "stage_2_tiny"
    result = json.loads((evaluation / "result.json").read_text())
    assert (result["top1"], result["balanced"]) == (
        trained["best_test_top1"]["mean"],
        trained["best_test_balanced"]["mean"],
    )
    assert (evaluation / "predictions.csv").read_text() == (folder / "stage_2/predictions.csv").read_text()
    assert (evaluation / "report.html").stat().st_size
    assert result["environment"]["command"].startswith("python main.py mode=eval pre_trained_path=run ")
    # Other images, of some of the classes.
    other = tmp_path / "other" / "some" / "test"
    for name in ("trouser", "bag"):
        shutil.copytree(data_dir / "tiny" / "train" / name, other / name)
    capsys.readouterr()
    assert main([*command, f"target_data_dir={tmp_path / 'other'}", "target_dataset=some"]) == 0
    assert "no images of 1 of the checkpoint's 3 classes" in capsys.readouterr().out
    with (folder / "eval/stage_2_some/per_class.csv").open() as file:
        assert [(row["class"], row["images"]) for row in csv.DictReader(file)] == [
            ("bag", "4"),
            ("sandal", "0"),
            ("trouser", "4"),
        ]
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0
    assert "\nwritten to runs/run/eval/stage_2_tiny\n" in capsys.readouterr().out
    assert sorted(path.name for path in evaluation.parent.iterdir()) == [
        "stage_2_some",
        "stage_2_tiny",
        "stage_2_tiny.old-1",
    ]
    shutil.copytree(data_dir / "tiny" / "train" / "bag", other / "boot")
    assert main([*command, f"target_data_dir={tmp_path / 'other'}", "target_dataset=some"]) == 1
    assert "the checkpoint has no class boot (its classes: bag, sandal, trouser)" in capsys.readouterr().err
    assert main([*command, "target_dataset=none"]) == 2
    assert capsys.readouterr().err.startswith(f"target_dataset: no folder none in {data_dir}")


def test_a_released_checkpoint_is_evaluated_without_a_config(released, data_dir, tmp_path, capsys):
    command = ["mode=eval", f"pre_trained_path={released}", f"outpath={tmp_path / 'runs'}", "gpu_id=cpu"]
    assert main(command) == 2
    assert "add base_model_name=<name>" in capsys.readouterr().err
    command.append("base_model_name=mobilenet_v2")
    assert main(command) == 2
    assert "add target_data_dir=<folder> target_dataset=<name>" in capsys.readouterr().err
    assert main([*command, f"target_data_dir={data_dir}", "target_dataset=tiny"]) == 0
    assert (tmp_path / "runs/released_eval_tiny/per_class.csv").exists()


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (lambda: build_network("mobilenet_v2", 120), "mobilenet_v2", "its head has 120 classes; the data set has 3"),
        (lambda: build_network("mobilenet_v2", 3), "resnet101", "not a resnet101: its head fc.bias is missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(words, tmp_path, capsys, make, config, message):
    torch.save({"model": make().state_dict()}, tmp_path / "other.pth")
    command = [
        str(CONFIGS / f"val/{config}_Stanford_dogs_120.hocon"),
        *words,
        f"pre_trained_path={tmp_path / 'other.pth'}",
    ]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_loss_that_is_not_finite_stops_the_run(words, tmp_path, capsys):
    assert main(["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "lr=1e30"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("not finite: ")
    assert "lr 1e+30" in error
    assert "tiny/train/" in error
    assert error.count("\n") == 1


def test_held_out_images_select_and_the_test_images_are_scored_at_the_end(words, tmp_path):
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "validation_fraction=0.25", "batch_size=3"]
    assert main(command) == 0
    result = json.loads((tmp_path / "runs/run/result.json").read_text())
    (stage,) = result["repeats"][0]
    assert stage["selected_on"] == result["selected_on"] == "held_out"
    assert stage["best"]["selection_top1"] * 3 % 100 == pytest.approx(0, abs=1e-6)  # three held-out images
    assert stage["best"]["test_top1"] * 9 % 100 == pytest.approx(0, abs=1e-6)  # nine test images


def test_the_test_images_are_scored_only_after_the_selection(words, monkeypatch):
    scored, score_split = [], loop.score_split

    def recorded(target, stage, split, context):
        scored.append({path.parts[-3] for path in split.folder.paths})
        return score_split(target, stage, split, context)

    monkeypatch.setattr(loop, "score_split", recorded)
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "validation_fraction=0.25", "batch_size=3"]
    assert main(command) == 0
    assert scored == [{"train"}] * 2 + [{"test"}] * 2  # held-out images at two epochs; both checkpoints


def test_a_last_batch_that_batch_norm_cannot_use_is_reported_before_training(words, capsys):
    assert main(["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "batch_size=11"]) == 2
    assert capsys.readouterr().err.startswith("batch_size: with 11 a batch of the 12 images has a single image")


def test_a_bad_image_is_named_and_can_be_skipped(words, data_dir, tmp_path, capsys):
    shutil.copytree(data_dir / "tiny", tmp_path / "data" / "tiny")
    bad = next((tmp_path / "data/tiny/train/bag").iterdir())
    bad.write_bytes(bad.read_bytes()[:100])
    command = [
        "tests/tiny.hocon",
        *words,
        "alpha=0.01",
        "exp_id=run",
        "max_iter=3",
        f"target_data_dir={tmp_path / 'data'}",
    ]
    assert main(command) == 1
    assert str(bad) in capsys.readouterr().err
    assert main([*command, "bad_images=skip", "exp_id=skip"]) == 0
    assert "continuing without 1 bad images" in capsys.readouterr().out


def test_unbalanced_classes_are_weighted_and_scored(words, data_dir, tmp_path, monkeypatch, capsys):
    shutil.copytree(data_dir / "tiny", tmp_path / "data" / "tiny")
    for path in sorted((tmp_path / "data/tiny/train/bag").iterdir())[1:]:
        path.unlink()
    weights = []

    class Spy(learner.Objective):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            weights.append(options["class_weights"])

    monkeypatch.setattr(learner, "Objective", Spy)
    data = [f"target_data_dir={tmp_path / 'data'}", "batch_size=3"]
    assert main(["tests/tiny.hocon", *words, *data, "alpha=0.01", "exp_id=run", "class_weights=balanced"]) == 0
    assert weights[0].tolist() == pytest.approx([9 / 3, 9 / 12, 9 / 12])  # N / (K n), of 1, 4 and 4 images
    result = json.loads((tmp_path / "runs/run/result.json").read_text())
    score = result["repeats"][0][0]["last"]
    assert result["last_test_balanced"]["mean"] == score["test_balanced"] == pytest.approx(score["test_top1"])
    assert "balanced" in (tmp_path / "runs/run/experiment.log").read_text()
    best = load_checkpoint(tmp_path / "runs/run/check_point/best.pth")
    assert best.balanced == pytest.approx(best.top1)  # three test images of each class
    with (tmp_path / "runs/run/per_class.csv").open() as file:
        assert list(next(csv.DictReader(file))) == [
            "class",
            "images",
            "predicted",
            "correct",
            "precision",
            "recall",
            "f1",
        ]


def run_program(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "main.py", *arguments], capture_output=True, text=True, check=False)


def test_a_wrong_config_is_exit_status_2_with_a_line_for_each_problem(data_dir):
    words = [f"target_data_dir={data_dir}", "target_dataset=tinny", "max_itr=3", "lr=fast", "alpha=1"]
    outcome = run_program("tests/tiny.hocon", *words)
    assert outcome.returncode == 2
    lines = outcome.stderr.splitlines()
    assert len(lines) == 3, lines
    assert "command line: lr: expected a number" in outcome.stderr
    assert "command line: max_itr: unknown key; did you mean 'max_iter'?" in outcome.stderr
    assert "did you mean 'tiny'?" in outcome.stderr


def test_help_explains_itself():
    outcome = run_program("--help")
    assert outcome.returncode == 0
    for words in ("CONFIG", "key=value", "hocon_config/demo/afa.hocon"):
        assert words in outcome.stdout
