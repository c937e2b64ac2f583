"""Grids of runs: missing runs are trained, failures are reported, killed runs are resumed."""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from afa.command_line import main
from afa.config.hocon import load_config
from afa.config.settings import Settings
from afa.errors import BusyError
from afa.files import claim_folder
from afa.grid import runner
from afa.grid.runner import shard
from afa.results.outcomes import format_seconds
from afa.training import loop
from afa.training.engine import predict
from tests.processes import Program

GRID = "tests/grid/grid.hocon"


@pytest.fixture
def command(words: list[str], tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments that run the grid's four runs on the tiny data: each stage is an epoch of three steps."""

    def build(*more: str, outpath: Path = tmp_path / "runs") -> list[str]:
        own = [word for word in words if not word.startswith(("max_iter", "target_dataset", "outpath"))]
        return [GRID, *own, f"outpath={outpath}", "max_iter=3", *more]

    return build


def table(outpath: Path, command: list[str]) -> str:
    assert main([*command, "mode=report"]) == 0
    return (outpath / "small/grid.csv").read_text()


def result(outpath: Path, cell: str) -> Path:
    return outpath / "small/MobileNetV2/tiny" / cell / "result.json"


def test_a_killed_grid_ends_with_the_same_table_as_an_undisturbed_one(command, tmp_path, capsys) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert main(command(outpath=undisturbed)) == 0
    program = Program(command("print_freq=1", outpath=killed), tmp_path)
    try:  # in stage two of the second run
        program.wait_for_line(result(killed, "AFA/seed_1").with_name("experiment.log"), "ACT epoch 1/1 step 1/3")
    finally:
        program.end()
    assert result(killed, "l2/seed_1").exists()
    assert not result(killed, "AFA/seed_1").exists()
    written = result(killed, "l2/seed_1").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command(outpath=killed)) == 0
    assert "[1/4] MobileNetV2, tiny, l2, seed 1: already done" in capsys.readouterr().out
    assert result(killed, "l2/seed_1").stat().st_mtime_ns == written
    assert table(killed, command(outpath=killed)) == table(undisturbed, command(outpath=undisturbed))


@pytest.mark.parametrize("quiet", ["false", "true"])
def test_a_failure_is_reported_and_the_other_runs_continue(command, data_dir, tmp_path, capsys, quiet) -> None:
    data = tmp_path / "data"
    for name in ("odd", "tiny"):
        shutil.copytree(data_dir / "tiny", data / name)
    shutil.rmtree(data / "odd/test")
    both = ['grid.datasets=["odd", "tiny"]', 'grid.methods=["l2"]', "grid.seeds=1", f"target_data_dir={data}"]
    both += [f"quiet={quiet}"]
    assert main(command(*both)) == 1
    out = capsys.readouterr().out
    assert out.count("[1/2] MobileNetV2, odd, l2, seed 1: ") == 2  # immediately, and again at the end
    assert ("[2/2]" in out) == (quiet == "false")
    assert result(tmp_path / "runs", "l2/seed_1").exists()
    shutil.copytree(data_dir / "tiny/test", data / "odd/test")
    assert main(command(*both)) == 0
    assert (capsys.readouterr().out == "") == (quiet == "true")


def test_a_finished_run_of_other_images_is_a_failure(command, data_dir, tmp_path, capsys) -> None:
    shutil.copytree(data_dir / "tiny", tmp_path / "data/tiny")
    one = command('grid.methods=["l2"]', "grid.seeds=1", f"target_data_dir={tmp_path / 'data'}")
    assert main(one) == 0
    assert main(one) == 0
    assert "already done" in capsys.readouterr().out
    next((tmp_path / "data/tiny/test/bag").iterdir()).unlink()
    assert main(one) == 1
    assert "made with other data (test images: 9, now 8)" in capsys.readouterr().out
    assert main([*one, "dry_run=true"]) == 0
    assert "broken" in capsys.readouterr().out
    assert "l2" in table(tmp_path / "runs", one)  # a report needs no images


def test_runs_of_missing_data_sets_are_skipped_and_these_named_once(command, tmp_path, capsys) -> None:
    some = command('grid.datasets=["nowhere", "tiny"]', 'grid.methods=["l2"]')
    assert main(some) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("nowhere: its runs are skipped; target_dataset: no folder nowhere in ")
    assert "[2/2] MobileNetV2, tiny, l2, seed 2" in out
    assert not (tmp_path / "runs/small/MobileNetV2/nowhere").exists()
    assert main([*some, "target_data_dir=/nowhere"]) == 2
    assert "target_data_dir: no such folder: /nowhere" in capsys.readouterr().err


def test_a_run_of_another_process_is_skipped(command, tmp_path, capsys) -> None:
    folder = result(tmp_path / "runs", "l2/seed_1").parent
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")  # a lock excludes other processes only
    ready, done = context.Event(), context.Event()
    owner = context.Process(target=hold, args=(str(folder), ready, done))
    owner.start()
    try:
        assert ready.wait(60)
        assert main(command('grid.methods=["l2"]')) == 0
    finally:
        done.set()
        owner.join()
    assert "MobileNetV2, tiny, l2, seed 1: skipped, because another process is training it" in capsys.readouterr().out
    assert not result(tmp_path / "runs", "l2/seed_1").exists()
    assert result(tmp_path / "runs", "l2/seed_2").exists()
    assert main(command('grid.methods=["l2"]')) == 0
    assert result(tmp_path / "runs", "l2/seed_1").exists()


def test_a_grid_whose_runs_all_belong_to_other_processes_is_no_success(command, monkeypatch) -> None:
    def refuse(settings: Settings) -> None:
        raise BusyError("another run is using this folder")

    monkeypatch.setattr(runner, "run", refuse)
    assert main(command()) == 1


def hold(folder: str, ready, done) -> None:
    with claim_folder(Path(folder)):
        ready.set()
        done.wait(120)


def test_several_jobs_give_the_table_of_one_and_a_failure_stops_no_other_run(command, tmp_path, capsys) -> None:
    search = ["first_stage.search.alpha=[0.01]", "validation_fraction=0.5"]
    one, several = (command(*search, f"jobs={jobs}", outpath=tmp_path / jobs) for jobs in ("1", "2"))
    assert main(one) == 0
    broken = result(tmp_path / "2", "l2/seed_1").parent
    broken.mkdir(parents=True)
    (broken / "notes.txt").touch()
    capsys.readouterr()
    assert main(several) == 1
    out = capsys.readouterr().out
    failure = f"[1/4] MobileNetV2, tiny, l2, seed 1: {broken}: contains files (notes.txt) but no run"
    assert out.count(failure) == 2  # immediately, and again at the end
    assert "[4/4] MobileNetV2, tiny, AFA, seed 2: last top-1 " in out
    shutil.rmtree(broken)
    assert main(several) == 0
    assert table(tmp_path / "2", several) == table(tmp_path / "1", one)


def test_shards_together_run_everything(command, tmp_path) -> None:
    one, other = (command('grid.methods=["l2"]', f"shard={k}/2") for k in (1, 2))
    assert main(one) == 0
    assert [result(tmp_path / "runs", f"l2/seed_{k}").exists() for k in (1, 2)] == [True, False]
    assert main(other) == 0
    assert [result(tmp_path / "runs", f"l2/seed_{k}").exists() for k in (1, 2)] == [True, True]


def test_shards_have_equal_work(tmp_path) -> None:
    """Not: one shard has all runs of a cheap method, the other all runs of an expensive one."""
    config = tmp_path / "two.hocon"
    config.write_text(
        f'include "shared.hocon"\ntarget_data_dir = "{tmp_path}"\nepochs = 3\nalpha = 0.1\n'
        "grid { networks = [mobilenet_v2], datasets = [x], methods = [l2, afa], seeds = 2 }"
    )
    shutil.copy("hocon_config/demo/shared.hocon", tmp_path)
    cells = load_config(config).cells
    assert [sorted(str(cell).split(", ")[2] for cell in shard(cells, f"{k}/2")) for k in (1, 2)] == [["afa", "l2"]] * 2
    cells = load_config("hocon_config/demo/methods.hocon").cells
    shards = [shard(cells, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(cell.folder for part in shards for cell in part) == sorted(cell.folder for cell in cells)
    groups = [[[cell for cell in part if cell.group == group] for group in {c.group for c in part}] for part in shards]
    work = [sum(map(runner._cost, units)) for units in groups]
    assert max(work) <= 1.1 * min(work)


def test_dry_run_lists_the_runs_with_their_states_and_costs(command, tmp_path, capsys) -> None:
    assert main(command('grid.methods=["l2"]', "grid.seeds=1")) == 0
    capsys.readouterr()
    assert main(command('grid.methods=["l2"]', 'grid.datasets=["tiny", "nowhere"]', "dry_run=true")) == 0
    done, missing, unknown, total, note = capsys.readouterr().out.splitlines()
    assert done == "done     MobileNetV2, tiny, l2, seed 1"
    assert unknown.startswith("missing  2 runs, for example MobileNetV2, nowhere, l2, seed 1: ")
    prefix, _, cost = missing.partition(": ")
    assert (prefix, cost.endswith(" MB")) == ("missing  MobileNetV2, tiny, l2, seed 2", True)
    assert total == f"remaining, one run after the other: {cost} of disk space"
    assert note == "not included: 2 runs that cannot be estimated"
    assert not result(tmp_path / "runs", "l2/seed_2").parent.exists()


def test_the_first_seed_of_a_group_also_costs_its_search(command, capsys, monkeypatch) -> None:
    stages = [SimpleNamespace(seconds=100.0, disk_bytes=10**6)] * 2
    estimate = SimpleNamespace(seconds=210.0, disk_bytes=2 * 10**6, reading=10.0, stages=stages)
    monkeypatch.setattr(runner, "estimate_run", lambda settings: estimate)
    arguments = [
        'grid.methods=["AFA"]',
        "first_stage.search.alpha=[1, 2]",
        "second_stage.search.alpha=[3]",
        "dry_run=true",
    ]
    assert main(command(*arguments)) == 0
    costs = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert costs[:2] == [f"{format_seconds(210 + 10 + 3 * 100)}, 5 MB", f"{format_seconds(210)}, 2 MB"]


def test_alpha_is_chosen_on_held_out_images_once_for_all_seeds(command, tmp_path, capsys) -> None:
    arguments = command('grid.methods=["AFA"]', "first_stage.search.alpha=[0.01, 1e30]", "validation_fraction=0.5")
    assert main(arguments) == 0
    folder = result(tmp_path / "runs", "AFA/x").parents[1]
    search = json.loads((folder / "search/search.json").read_text())
    (stage,) = search["stages"]
    assert (stage["method"], stage["alpha"], search["selected_on"]) == ("AST", 0.01, "held_out")
    assert stage["tried"][1]["held_out_top1"] is None  # 1e30 is not finite
    trial = json.loads((folder / "search/stage_1_alpha_0.01/result.json").read_text())
    assert (trial["selected_on"], len(trial["repeats"][0])) == ("held_out", 1)
    for seed in (1, 2):
        run = json.loads((folder / f"seed_{seed}/result.json").read_text())
        assert (run["selected_on"], run["data"]["held_out_fraction"]) == ("test", 0.0)
        assert "alpha = 0.01" in (folder / f"seed_{seed}/settings.log").read_text()
    assert capsys.readouterr().out.count("not finite: ") == 1
    assert "0.01 / 0.02,held_out,2,2" in table(tmp_path / "runs", arguments)


def test_overwrite_searches_again_once_for_all_seeds(command, tmp_path) -> None:
    arguments = command('grid.methods=["AFA"]', "first_stage.search.alpha=[0.01]", "validation_fraction=0.5")
    assert main(arguments) == 0
    changed = [*arguments, "first_stage.lr=0.02"]
    assert main(changed) == 1  # the runs were made with other settings
    assert main([*changed, "overwrite=true"]) == 0
    folder = result(tmp_path / "runs", "AFA/x").parents[1]
    seeds = {"seed_1", "seed_1.old-1", "seed_2", "seed_2.old-1"}
    assert {path.name for path in folder.iterdir()} == {"search", *seeds}
    trial = "stage_1_alpha_0.01"
    assert {path.name for path in (folder / "search").iterdir()} == {"search.json", trial, f"{trial}.old-1"}
    for changed_run in (folder / "seed_1", folder / "seed_2", folder / "search" / trial):
        assert "lr = 0.02" in (changed_run / "settings.log").read_text()


def test_a_search_in_an_ordinary_run(words, tmp_path, capsys) -> None:
    words += ["max_iter=3", "validation_fraction=0.5", "search.repeat=2"]
    command = ["tests/tiny.hocon", *words, "exp_id=run", "search.alpha=[0.001, 0.01]"]
    assert main(command) == 0
    assert "held-out images: 0.5 of the training images, after the last epoch" in capsys.readouterr().out
    trial = json.loads((tmp_path / "runs/run.search/stage_1_alpha_0.001/result.json").read_text())
    assert trial["best_test_top1"]["n"] == 2
    assert main(command) == 0
    assert "already finished" in capsys.readouterr().out
    assert main([*command, "alpha=0.5", "search.alpha=[]", "exp_id=plain"]) == 0
    assert not (tmp_path / "runs/plain.search").exists()


def test_only_some_epochs_are_scored_and_always_the_last(words, tmp_path, monkeypatch) -> None:
    log, scored = tmp_path / "runs/run/log.txt", []

    def counting_predict(*arguments):
        scored.append(len(log.read_text().splitlines()))  # the header and the epochs before this one
        return predict(*arguments)

    monkeypatch.setattr(loop, "predict", counting_predict)
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "max_iter=15", "test_every=2"]
    assert main(command) == 0
    assert scored == [2, 4, 5, 6, 6]  # at the end the files last.pth and best.pth
    rows = [line.split("\t") for line in log.read_text().splitlines()[1:]]
    assert [row[-1] == "nan" for row in rows] == [True, False, True, False, False]
    best = json.loads((tmp_path / "runs/run/result.json").read_text())["repeats"][0][0]["best"]
    assert best["selection_top1"] == pytest.approx(max(float(row[-1]) for row in rows if row[-1] != "nan"))


def test_committed_results_are_enough_for_the_report_and_to_continue_elsewhere(command, tmp_path, capsys) -> None:
    """Of each run ``settings.log`` and ``result.json``: no checkpoint, no search, and for the report no images."""
    arguments = command('grid.methods=["AFA"]', "first_stage.search.alpha=[0.01, 0.02]", "validation_fraction=0.5")
    assert main(arguments) == 0
    expected = table(tmp_path / "runs", arguments)
    for name in ("settings.log", "result.json"):
        for path in (tmp_path / "runs").glob(f"small/*/*/*/seed_*/{name}"):
            copy = tmp_path / "results" / path.relative_to(tmp_path / "runs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    moved = [*arguments, f"outpath={tmp_path / 'results'}"]
    assert table(tmp_path / "results", [*moved, "target_data_dir=/nowhere"]) == expected
    shutil.rmtree(result(tmp_path / "results", "AFA/seed_2").parent)
    capsys.readouterr()
    assert main(moved) == 0
    assert not (tmp_path / "results/small/MobileNetV2/tiny/AFA/search").exists()
    assert "seed 1: already done" in capsys.readouterr().out
    assert table(tmp_path / "results", moved) == expected
