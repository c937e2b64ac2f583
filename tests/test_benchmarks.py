"""The benchmarks of a step and of the input run to their end; at these sizes their results mean nothing."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SMALL = {
    "step.py": ["--networks", "mobilenet_v2", "--methods", "ast", "--batch", "2", "--size", "64", "--repeats", "1"],
    "images.py": ["--images", "8", "--repeats", "1"],
}


@pytest.mark.parametrize("script", SMALL)
def test_a_benchmark_measures_both_sides(script, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / script, *SMALL[script], "--json", tmp_path / "results.json"]
    subprocess.run(command, cwd=ROOT, check=True)
    content = json.loads((tmp_path / "results.json").read_text())
    if script == "step.py":
        result = content["results"]["mobilenet_v2"]["ast"]
        assert result["times_textbook_wall"] > 0
        assert result["of_limit_wall"] > 0
        assert 0.1 < result["peak_gib"] < 10
    else:
        assert content["warm"]["wall_ratio"] > 1  # no decoding


def test_two_trees_are_compared_command_by_command(tmp_path):
    options = ["--only", "help", "--repeats", "1", "--json", tmp_path / "results.json"]
    subprocess.run([sys.executable, ROOT / "benchmarks/two_trees.py", ROOT, *options], cwd=ROOT, check=True)
    assert json.loads((tmp_path / "results.json").read_text())["results"]["help"]["ratio"][0] > 0


GPU_OPTIONS = ["--device", "cpu", "--batch", "4", "--size", "64", "--repeats", "1", "--rounds", "1", "--images", "8"]


def gpu_rows(out: Path) -> dict[str, dict]:
    """The rows of the JSON file of ``./run.sh gpu``, which are also those of its table."""
    content = json.loads((out / "gpu.json").read_text())
    assert content["environment"]["torch"] == torch.__version__
    table = (out / "gpu.md").read_text()
    for name, figures in content["rows"].items():
        assert f"| {name} | {figures['result']} |" in table
    return content["rows"]


@pytest.fixture
def gpu(monkeypatch):
    """The module ``gpu.py``, which runs its rows in this process."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module, "run_row", lambda row, options, seconds: row.work(options, *row.arguments))
    return module


def test_the_gpu_command_checks_and_measures(gpu, monkeypatch, tmp_path, convolutions_in_tf32):
    rows = ["--rows", "mobilenet_v2: step, fp", "losses", "gpu_id=1", "--size", "32"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *GPU_OPTIONS, *rows, "--out", str(tmp_path)])
    gpu.main()
    assert set(convolutions_in_tf32) == {False}  # also in the textbook implementation and in the limit
    rows = gpu_rows(tmp_path)
    assert rows["mobilenet_v2: step, fp16"]["result"] == "not run: no GPU"
    assert rows["gpu_id=1: nothing on GPU 0, NaN reported"]["result"] == "not run: no GPU"
    step = rows["mobilenet_v2: step, fp32"]
    assert min(step["images_per_second"], step["times_textbook_wall"], step["of_limit_wall"]) > 0
    assert rows["first losses as on the CPU"]["result"] == "largest relative difference 0.0e+00"
    sys.argv += ["--minutes", "-1"]
    gpu.main()
    assert gpu_rows(tmp_path)["mobilenet_v2: step, fp32"]["result"] == "not run: -1 minutes are over"
    assert gpu.speed.covered([(5, 6), (0, 2), (1, 3), (2, 3)]) == (4, 6)


def test_a_failed_row_is_reported_and_the_others_run(gpu, monkeypatch, tmp_path):
    def run_row(row, options, seconds):
        here, there = gpu.multiprocessing.Pipe(duplex=False)
        gpu.call(there, row, options)
        return here.recv()

    monkeypatch.setattr(gpu.os, "setsid", lambda: None)
    monkeypatch.setattr(gpu, "run_row", run_row)
    works = [lambda options: {"result": "good"}, lambda options: 1 / 0, lambda options: importlib.import_module("no")]
    monkeypatch.setattr(gpu, "ROWS", [gpu.Row(str(number), work, gpus=0) for number, work in enumerate(works)])
    monkeypatch.setattr(sys, "argv", ["gpu.py", *GPU_OPTIONS, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"failed: 1$"):
        gpu.main()
    assert [row["result"] for row in gpu_rows(tmp_path).values()] == [
        "good",
        "FAILED: ZeroDivisionError: division by zero",
        "not run: the package no is not installed",
    ]


def test_an_existing_interpreter_is_used_as_it_is(tmp_path):
    variables = {**os.environ, "VENV": "none", "PYTHON": "echo"}
    done = subprocess.run([ROOT / "run.sh", "gpu", "--rows", "fp16"], cwd=tmp_path, env=variables, stdout=-1, text=True)
    assert done.stdout == "benchmarks/gpu.py --rows fp16\n"


@pytest.mark.slow
def test_all_rows_of_the_gpu_command_that_a_cpu_can_run(gpu, tmp_path):
    variables = {**os.environ, "VENV": "none", "PYTHON": sys.executable}
    command = [ROOT / "run.sh", "gpu", *GPU_OPTIONS, "--minutes", "60", "--out", tmp_path]
    subprocess.run(command, env=variables, check=True)
    rows = gpu_rows(tmp_path)
    assert set(rows) == {row.name for row in gpu.ROWS}
    run = {name: row for name, row in rows.items() if row["result"] != "not run: no GPU"}
    assert set(run) == {row.name for row in gpu.ROWS if row.gpus == 0}
    assert all(row["seconds"] > 0 and "FAILED" not in row["result"] for row in run.values())


@pytest.mark.slow
def test_the_rows_that_need_hardware_compute(gpu, monkeypatch):
    monkeypatch.setattr("afa.training.numerics._missing_hardware", lambda name, device: "")
    options = argparse.Namespace(batch=4, size=64, rounds=2, device=torch.device("cpu"))
    assert gpu.checks.steps_in_fp16(options)["skipped"] in range(1, 6)
    assert "all end" in gpu.checks.two_processes(options)["result"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "rows"),
    [
        ("large_folders.py", ["--images", "200", "400", "--classes", "10"], {"images": 2, "classes": 1}),
        ("estimates.py", ["--methods", "DELTA", "AFA", "--overrides", "max_iter=5", "image_size=32"], {"estimates": 2}),
    ],
)
def test_a_benchmark_of_growth_or_estimates_measures_all_rows(script, options, rows, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / script, *options, "--json", tmp_path / "figures.json"]
    subprocess.run(command, cwd=ROOT, check=True)
    content = json.loads((tmp_path / "figures.json").read_text())
    for name, count in rows.items():
        table = content[name]
        assert [len(row) for row in table["rows"]] == count * [len(table["header"])]


def test_the_alpha_study_trains_chooses_and_judges(words, tmp_path):
    study = [sys.executable, ROOT / "benchmarks/alpha_study.py", "--sets", "fashion_mnist", "--methods", "AFA"]
    options = ["--alphas", "3", "1e38", "--seeds", "2", "--epochs", "2", "--out", tmp_path / "study", "--shard", "1/1"]
    own = [word for word in words if not word.startswith(("outpath", "max_iter", "batch_size"))]
    runs = [
        subprocess.run(
            [*study, *options, *own, "batch_size=3", *more], cwd=ROOT, check=True, capture_output=True, text=True
        )
        for more in ([], ["--report"])
    ]
    table = runs[1].stdout
    assert "AFA_1e+38_1" in runs[0].stdout
    assert "AFA" not in table.split("data set")[0]  # nothing is trained again
    rows = [line.split() for line in table.splitlines() if line.startswith("fashion_mnist")]
    assert [row[1:3] for row in rows] == [["AFA", "3"], ["AFA", "1e+38"]]
    assert "not finite" in table
    assert "chosen on held-out images: alpha = 3" in table
    assert "passed: fashion_mnist, AFA: +0.0 ± 0.0" in table
    assert len(list((tmp_path / "study/fashion_mnist").glob("*.not_finite"))) == 2
