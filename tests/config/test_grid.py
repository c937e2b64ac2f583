"""Grids: which runs a config means, and what is said of a config that is wrong."""

from pathlib import Path

import pytest

from afa.config.grid import Grid
from afa.config.hocon import load_config, load_settings
from afa.errors import ConfigError
from afa.grid.command import shard

GRID = "tests/grid/grid.hocon"


def load(*words: str, config: str | Path = GRID) -> Grid:
    grid = load_config(config, ["target_data_dir=data", *words])
    assert isinstance(grid, Grid)
    return grid


def refused(*words: str, config: str | Path = GRID) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(*words, config=config)
    return error.value.lines


def test_cells_are_ordinary_runs_each_in_its_folder() -> None:
    cells = load("outpath=out").cells
    assert [str(cell.folder) for cell in cells] == [
        f"out/small/MobileNetV2/tiny/{method}/seed_{seed}" for seed in (1, 2) for method in ("l2", "AFA")
    ]
    l2, afa = (cell.settings() for cell in cells[2:])
    assert (l2.stages[0].method, l2.stages[0].weight_decay, l2.stages[0].seed) == ("l2", 1e-4, 2)
    assert [(s.method, s.learning_rate, s.alpha, s.seed) for s in afa.stages] == [
        ("ast", 0.01, 0.01, 2),
        ("act", 0.001, 0.02, 6),
    ]
    assert Path(afa.run.outpath, afa.run_name) == cells[3].folder


def test_the_command_line_wins_in_every_cell() -> None:
    for cell in load("lr=0.5", "first_stage.alpha=0.3", 'grid.methods=["AFA"]').cells:
        first, second = cell.settings().stages
        assert (first.learning_rate, second.learning_rate, first.alpha, second.alpha) == (0.5, 0.5, 0.3, 0.02)


def test_names_that_the_grid_does_not_define_stand_for_themselves() -> None:
    cell = load('grid.networks=["resnet50"]', 'grid.datasets=["birds"]', 'grid.methods=["l2"]').cells[0]
    assert (cell.first_seed.backbone.name, cell.first_seed.data.dataset) == ("resnet50", "birds")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (['grid.methods=["l3"]'], "command line: grid.methods: unknown value 'l3' (known: ast"),
        (["grid.sed=2"], "command line: grid.sed: unknown key; did you mean 'seeds'?"),
        (["shard=3/2"], "command line: shard: '3/2' is not right: k/n with k from 1 to n"),
        (["shard=0/2"], "command line: shard: '0/2' is not right"),
        (["mode=evaluate"], "command line: mode: unknown value 'evaluate'"),
        (['grid.methods=["ast"]'], "tests/grid/grid.hocon: alpha: missing for MobileNetV2, tiny, ast: AST needs it"),
        (['grid.datasets=["tiny", "tiny?"]', 'grid.methods=["l2"]'], "tests/grid/grid.hocon:3: grid: two of its names"),
        (["grid.define.cells.MobileNetV2.tyni.AFA.lr=1"], "command line: grid.define.cells.MobileNetV2.tyni: no such"),
        (["lr=x"], "command line: lr: expected a number"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], line: str) -> None:
    assert [found[: len(line)] for found in refused(*words)] == [line]


def test_a_bad_key_is_named_with_its_line_once_for_all_cells(tmp_path: Path) -> None:
    config = tmp_path / "bad.hocon"
    text = (
        Path(GRID)
        .read_text()
        .replace("{ alpha = 0.02 }", "{\n alpah = 0.02 }")
        .replace("reg_type = act", "reg_type = acd")
    )
    config.write_text(text)
    first, second = refused(config=config)
    assert first.startswith(f"{config}:15: grid.define.methods.AFA.second_stage.reg_type: unknown value 'acd'")
    assert second.startswith(f"{config}:19: grid.define.cells.MobileNetV2.tiny.AFA.second_stage.alpah: unknown key")


def test_one_run_is_expected_where_a_grid_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="a grid of 4 runs"):
        load_settings(GRID, ["target_data_dir=data"])


@pytest.mark.parametrize("words", [[], ['grid.methods=["AFA"]', "first_stage.search.alpha=[0.1]"]])
def test_shards_are_disjoint_and_together_everything(words: list[str]) -> None:
    cells = load("grid.seeds=7", *words).cells
    parts = [shard(cells, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(str(cell) for part in parts for cell in part) == sorted(map(str, cells))
    if words:  # one search for all seeds
        assert [len(part) for part in parts] == [7, 0, 0]
