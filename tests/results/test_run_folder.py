"""Names in the folder of a run, and the checkpoint that ``pre_trained_path`` names."""

import subprocess
import sys
from pathlib import Path

import pytest

from afa.errors import ConfigError
from afa.results.run_folder import RunFolder, StageFolder, find_checkpoint, matching


@pytest.mark.parametrize(
    ("repeats", "stages", "expected"),
    [(1, 1, "runs/a"), (1, 2, "runs/a/stage_2"), (3, 1, "runs/a/repeat_3"), (3, 2, "runs/a/repeat_3/stage_2")],
)
def test_a_stage_has_a_folder_of_its_own_only_if_there_are_several(repeats, stages, expected):
    folder = RunFolder(Path("runs/a")).stage_folder(repeat=repeats, repeats=repeats, stage=stages, stages=stages)
    assert folder == StageFolder(Path(expected))


def test_names_of_files():
    """Scripts of users and runs of earlier versions rely on them."""
    run = RunFolder(Path("runs/a"))
    stage = run.as_stage
    names = {
        "": [run.settings_log, run.experiment_log, run.result, run.report_html, run.lock],
        "check_point": [stage.best, stage.last, stage.previous],
        ".": [stage.log_txt, stage.result, stage.predictions_csv, stage.per_class_csv, stage.tensorboard],
    }
    assert {
        folder: [str(path.relative_to(Path("runs/a", folder))) for path in paths] for folder, paths in names.items()
    } == {
        "": ["settings.log", "experiment.log", "result.json", "report.html", ".lock"],
        "check_point": ["best.pth", "last.pth", "previous.pth"],
        ".": ["log.txt", "stage.json", "predictions.csv", "per_class.csv", "tensorboard"],
    }
    assert run.search_folder == Path("runs/a.search")
    assert stage.nested("head").best == Path("runs/a/head/check_point/best.pth")


def put(folder):
    best = StageFolder(folder).best
    best.parent.mkdir(parents=True)
    best.write_bytes(b"")
    return best


def test_a_run_is_found_as_a_path_or_under_outpath(tmp_path, monkeypatch):
    best = put(tmp_path / "runs/a")
    monkeypatch.chdir(tmp_path)
    for name, outpath in [("a", "runs"), ("runs/a", "elsewhere"), (str(tmp_path / "runs/a"), ""), (str(best), "")]:
        assert find_checkpoint(name, outpath).resolve() == best.resolve()
    nearer = put(tmp_path / "a")
    assert find_checkpoint("a", "runs").resolve() == nearer.resolve()


def test_the_last_stage_of_the_same_repeat_is_taken(tmp_path):
    put(tmp_path / "two_stages/stage_1")
    second = put(tmp_path / "two_stages/stage_2")
    assert find_checkpoint("two_stages", str(tmp_path)) == second
    repeats = [put(tmp_path / f"repeats/repeat_{repeat}/stage_2") for repeat in (1, 2)]
    assert [find_checkpoint("repeats", str(tmp_path), repeat) for repeat in (1, 2)] == repeats


def test_a_missing_checkpoint_names_both_paths(tmp_path):
    with pytest.raises(ConfigError, match=r"no checkpoint at gone or runs/gone/check_point/best\.pth; "):
        find_checkpoint("gone", "runs")


def test_patterns(tmp_path):
    paths = [tmp_path / "a.jpg", tmp_path / "b/c.jpg", tmp_path / "[d].jpg"]
    (tmp_path / "b").mkdir()
    for path in paths:
        path.write_bytes(b"")
    assert matching(f"{tmp_path}/**/b/*.jpg") == ([tmp_path], "b/*.jpg")
    assert matching("**") == ([Path()], "")
    assert sorted(matching(f"{tmp_path}/*.jpg")[0]) == sorted([paths[0], paths[2]])
    assert matching(str(tmp_path / "[d].jpg")) == ([tmp_path / "[d].jpg"], "")
    assert matching(f"{tmp_path}/[[]d*") == ([tmp_path / "[d].jpg"], "")
    assert matching(f"{tmp_path}/[d].*") == ([tmp_path / "[d].jpg"], "")  # no pattern of this name matches
    assert matching(f"{tmp_path}/[ad].*") == ([tmp_path / "a.jpg"], "")
    assert matching(str(tmp_path / "gone")) == ([], "")


def test_settings_are_checked_without_torch():
    code = (
        "import sys, afa.files, afa.results.run_folder, afa.results.outcomes, afa.results.journal\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
