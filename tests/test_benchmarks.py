"""The benchmarks of a step and of the input run to their end; at these sizes their results mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
