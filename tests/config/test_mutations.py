"""Configs changed at random: settings, or each problem on its own line."""

import random
import shutil
from pathlib import Path

import pytest

from afa.command_line import main
from afa.config.hocon import load_settings
from afa.errors import ConfigError
from tests.mutate import mutated_config

CONFIGS = Path(__file__).parents[2] / "hocon_config"


@pytest.mark.parametrize("seed", range(10))
def test_ten_mutated_configs_are_read_or_refused_line_by_line(tmp_path, seed):
    chance = random.Random(seed)
    shutil.copytree(CONFIGS, tmp_path / "hocon_config")
    files = sorted((tmp_path / "hocon_config").rglob("*.hocon"))
    for _ in range(10):
        file = chance.choice(files)
        text = file.read_text()
        file.write_text(mutated_config(text, chance), encoding="utf-8")
        lines = []
        try:
            load_settings(file)
        except ConfigError as error:
            lines = error.lines
        assert all(line and "\n" not in line and len(line) < 30_000 for line in lines)
        file.write_text(text)


def test_mutated_configs_run_or_end_with_one_line(words, tmp_path, capsys):
    """Three of those that are read; the campaign of mutations runs the others."""
    chance, ran = random.Random(1), 0
    file = tmp_path / "c.hocon"
    text = "base_model_name = mobilenet_v2\nreg_type = ast\nalpha = 1e-5\nlr = 0.001\nmomentum = 0.9\nbeta = 0.01\n"
    while ran < 3:
        file.write_text(mutated_config(text, chance), encoding="utf-8")
        try:
            load_settings(file, words)
        except ConfigError:
            continue
        ran += 1
        capsys.readouterr()
        status = main([str(file), *words, f"exp_id=run_{ran}"])
        assert status == 0 or len(capsys.readouterr().err.splitlines()) == 1
