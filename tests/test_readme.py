"""The README is true: its settings, its files and its Python example."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_that_of_the_program():
    sys.path.insert(0, str(ROOT / "docs"))
    from config_table import config_table, grid_table

    assert config_table() in README, "paste the output of: python docs/config_table.py"
    grids = (ROOT / "docs/reproduce-the-paper.md").read_text(encoding="utf-8")
    assert grid_table() in grids, "paste the output of: python docs/config_table.py"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b(?:hocon_config|tests|docs|demo)/[\w./-]+\w", README))))
def test_files_that_it_names_are_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("config", sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("hocon_config/**/*.hocon")))
def test_every_config_that_can_be_run_is_good(config):
    """A leaf config's problems can only be that data or checkpoints are not there."""
    from afa.config.grid import Grid
    from afa.config.hocon import load_config

    if "shared" not in (Path(config).stem, Path(config).parent.name):
        found = load_config(config)
        runs = [cell.first_seed.run for cell in found.cells] if isinstance(found, Grid) else [found.run]
        assert {run.outpath for run in runs} == {"runs"}


def test_the_python_example_runs(data_dir, tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    # The whole run at its end would take a minute: the settings are put on the tiny data.
    quick = f'["target_data_dir={data_dir}", "target_dataset=tiny", "outpath={tmp_path}", "max_iter=1", "batch_size=4"]'
    code = code.replace('ast.hocon")', f'ast.hocon", {quick})')
    names: dict = {}
    exec(code, names)
    assert names["result"]["repeats"][0][0]["method"] == "AST"
