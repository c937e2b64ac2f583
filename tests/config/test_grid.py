"""Grids: the runs that a config means, and the messages about a wrong one."""

from pathlib import Path

import pytest

from afa.config.grid import Grid
from afa.config.hocon import load_config, load_settings
from afa.errors import ConfigError
from afa.grid.runner import shard

GRID = "tests/grid/grid.hocon"


def load(*arguments: str, config: str | Path = GRID) -> Grid:
    grid = load_config(config, ["target_data_dir=data", *arguments])
    assert isinstance(grid, Grid)
    return grid


def refused(*arguments: str, config: str | Path = GRID) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(*arguments, config=config)
    return error.value.lines


def test_cells_are_ordinary_runs_each_in_its_folder() -> None:
    cells = load("outpath=out").cells
    assert [str(cell.folder) for cell in cells] == [
        f"out/small/MobileNetV2/tiny/{method}/seed_{seed}" for seed in (1, 2) for method in ("l2", "AFA")
    ]
    l2, afa = (cell.run_settings() for cell in cells[2:])
    assert (l2.stages[0].method, l2.stages[0].weight_decay, l2.stages[0].seed) == ("l2", 1e-4, 2)
    assert [(s.method, s.learning_rate, s.alpha, s.seed) for s in afa.stages] == [
        ("ast", 0.01, 0.01, 2),
        ("act", 0.001, 0.02, 6),
    ]
    assert Path(afa.run.outpath, afa.run_name) == cells[3].folder


def test_the_command_line_wins_in_every_cell() -> None:
    for cell in load("lr=0.5", "first_stage.alpha=0.3", 'grid.methods=["AFA"]', "outpath=5", "epochs=3").cells:
        first, second = cell.run_settings().stages
        assert (first.learning_rate, second.learning_rate, first.alpha, second.alpha) == (0.5, 0.5, 0.3, 0.02)
        assert cell.parent == Path("5/small/MobileNetV2/tiny/AFA")


@pytest.mark.parametrize(
    ("arguments", "alphas"),
    [
        ([], [(0.0, (1.0, 2.0)), (0.02, ())]),
        (["first_stage.alpha=0.3"], [(0.3, ()), (0.02, ())]),
        (["search.alpha=[3]"], [(0.0, (3.0,)), (0.02, (3.0,))]),
        (["grid.define.cells.MobileNetV2.tiny.AFA.first_stage.alpha=0.5"], [(0.5, ()), (0.02, ())]),
    ],
)
def test_exclusive_keys_of_a_cell_follow_the_same_precedence(tmp_path: Path, arguments, alphas) -> None:
    text = Path(GRID).read_text().replace("first_stage { alpha = 0.01 }", "x").replace("x,", "")
    text = text.replace("first_stage { reg_type = ast }", "first_stage { reg_type = ast, search.alpha = [1, 2] }")
    (tmp_path / "c.hocon").write_text(text)
    first_seed = load('grid.methods=["AFA"]', *arguments, config=tmp_path / "c.hocon").cells[0].first_seed
    assert [(stage.alpha, stage.search_alpha) for stage in first_seed.stages] == alphas


def test_a_name_that_the_grid_does_not_define_is_a_value() -> None:
    cell = load('grid.networks=["resnet50"]', 'grid.datasets=["birds"]', 'grid.methods=["l2"]').cells[0]
    assert (cell.first_seed.backbone.name, cell.first_seed.data.dataset) == ("resnet50", "birds")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["grid.methods=[l3]"], "command line: grid.methods: unknown value 'l3' (known: ast"),
        (["grid.methods=l2"], "command line: grid.methods: expected a list of names, for example [l2, afa], got 'l2'"),
        (["grid.networks=3"], "command line: grid.networks: expected a list of names, for example [resnet101, mobil"),
        (["grid.datasets=3"], "command line: grid.datasets: expected a list of names, for example [Stanford_Dogs, f"),
        (["grid.baseline=3"], "command line: grid.baseline: expected a list of names, for example [l2], got 3"),
        (["grid.baseline=[l3]"], "command line: grid.baseline: 'l3' is not a method of the grid (known: AFA, l2)"),
        (["grid.sed=2"], "command line: grid.sed: unknown key; did you mean 'seeds'?"),
        (["shard=3/2"], "command line: shard: '3/2' is not valid: <k>/<n> with k from 1 to n"),
        (["shard=0/2"], "command line: shard: '0/2' is not valid"),
        (["mode=evaluate"], "command line: mode: unknown value 'evaluate'"),
        (['grid.methods=["ast"]'], "tests/grid/grid.hocon: alpha: missing for MobileNetV2, tiny, ast: AST needs it"),
        (
            ['grid.datasets=["tiny", "tiny?"]', 'grid.methods=["l2"]'],
            "tests/grid/grid.hocon:3: grid: two names of the grid",
        ),
        (["grid.define.cells.MobileNetV2.tyni.AFA.lr=1"], "command line: grid.define.cells.MobileNetV2.tyni: not a"),
        (["lr=x"], "command line: lr: expected a number"),
        (["grid.networks=[]"], "command line: grid.networks: is empty; a grid needs at least one name on each axis"),
        (["grid.datasets=[]"], "command line: grid.datasets: is empty"),
        (["grid.methods=[]"], "command line: grid.methods: is empty"),
        (["grid.seeds=0"], "command line: grid.seeds: 0 is out of range; expected 1 to 1000"),
        (["repeat=3"], "command line: repeat: 3 repeats in a grid; set grid.seeds instead"),
        (["grid.define.methods.AFA.repeat=2"], "command line: grid.define.methods.AFA.repeat: 2 repeats in a grid"),
        (["grid.define.methods.AFA=2"], "command line: grid.define.methods.AFA: expected a block { ... }, got 2"),
    ],
)
def test_a_mistake_is_named_once(arguments: list[str], line: str) -> None:
    assert [found[: len(line)] for found in refused(*arguments)] == [line]


def test_an_unknown_name_is_refused_with_those_that_the_grid_defines() -> None:
    (line,) = refused("grid.methods=[l3]")
    assert line.endswith("; defined in this grid: AFA")


def test_a_list_of_names_on_the_command_line_needs_no_quotes() -> None:
    methods = [load(f"grid.methods={text}").grid.methods for text in ("[l2,AFA]", "[ l2, AFA ]", '["l2", "AFA"]')]
    assert methods == [("l2", "AFA")] * 3


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


@pytest.mark.parametrize("arguments", [[], ['grid.methods=["AFA"]', "first_stage.search.alpha=[0.1]"]])
def test_shards_are_disjoint_and_contain_every_cell(arguments: list[str]) -> None:
    cells = load("grid.seeds=7", *arguments).cells
    shards = [shard(cells, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(str(cell) for cells_of_shard in shards for cell in cells_of_shard) == sorted(map(str, cells))
    if arguments:  # one search for all seeds
        assert list(map(len, shards)) == [7, 0, 0]
