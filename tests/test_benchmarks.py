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
