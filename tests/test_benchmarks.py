"""The commands that measure a step and the input, with sizes of which nothing is to be learnt."""

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
    command = [sys.executable, ROOT / "benchmarks" / script, *SMALL[script], "--json", tmp_path / "figures.json"]
    subprocess.run(command, cwd=ROOT, check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    if script == "step.py":
        own = figures["results"]["mobilenet_v2"]["ast"]
        assert own["times_textbook_wall"] > 0
        assert own["of_limit_wall"] > 0
        assert 0.1 < own["peak_gib"] < 10
    else:
        assert figures["warm"]["wall_ratio"] > 1  # no decoding
