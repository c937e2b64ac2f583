"""Grids of runs: networks x data sets x methods x seeds, from a config with a ``grid { }`` block.

The settings of a cell are, with increasing precedence, the keys outside the grid, those that the grid defines for its
network, its data set, its method and this combination, and the command line. They pass the same checks as those of a
single run.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from afa.config.schema import build_settings
from afa.config.settings import Settings
from afa.config.values import Problems, check_required, check_values, nearest
from afa.fields import setting, setting_fields

GRID = "grid"
"""The block that makes a config a grid."""


@dataclass(frozen=True)
class GridSettings:
    """The axes of a grid; keys of the block ``grid { }``."""

    networks: tuple[str, ...] = setting(
        "names of networks, defined in the grid or torchvision's; not required if base_model_name is set",
        example="[resnet101, mobilenet_v2]",
    )
    datasets: tuple[str, ...] = setting(
        "names of data sets, defined in the grid or folders; not required if target_dataset is set",
        example="[Stanford_Dogs, flowers]",
    )
    methods: tuple[str, ...] = setting(
        "names of methods, defined in the grid or values of reg_type; not required if reg_type is set",
        example="[l2, afa]",
    )
    seeds: int = setting("number of runs per combination; run k uses seed + k - 1", default=5, low=1, high=1000)
    name: str = setting("folder of the runs in outpath, which grids may share; empty: the file's name", default="")
    baseline: tuple[str, ...] = setting(
        "methods that the report compares all others with, seed by seed", default=(), example="[l2]"
    )
    published: str = setting("number of the paper's table to compare the results with", default="")
    kind: str = setting(
        "output of mode=report: table, curves, images_per_class or parameters; does_it_help: a table and one sentence, "
        "also after the training",
        default="table",
        choices=("table", "curves", "images_per_class", "parameters", "does_it_help"),
    )


@dataclass(frozen=True)
class GridOptions:
    """What to do with a grid; keys outside the block, usually on the command line."""

    mode: str = setting("train the missing runs, or report", default="train", choices=("train", "report"))
    shard: str = setting(
        "<k>/<n>: run shard k of n, k from 1 to n", default="1/1", pattern=r"[1-9]\d{0,3}/[1-9]\d{0,3}"
    )
    dry_run: bool = setting("only list the runs", default=False)


Flatten = Callable[..., dict[str, Any]]
GRID_FIELDS = {f"{GRID}.{key}": f for key, f in setting_fields(GridSettings).items()} | setting_fields(GridOptions)
"""Dotted key -> field."""
_OPTIONS = setting_fields(GridOptions).keys()
_AXES = {"networks": "base_model_name", "datasets": "target_dataset", "methods": "reg_type"}
"""Axis -> the config key that a name sets if the grid does not define this name."""


class Cell(NamedTuple):
    """One run of a grid: a network, a data set, a method and the number of a seed, counted from 1.

    ``first_seed`` has the settings of the first seed; ``parent`` is the folder that contains the runs of all seeds.
    """

    network: str
    dataset: str
    method: str
    seed: int
    first_seed: Settings
    parent: Path

    def __str__(self) -> str:
        return f"{self.network}, {self.dataset}, {self.method}, seed {self.seed}"

    @property
    def group(self) -> tuple[str, str, str]:
        """The names of network, data set and method, which all seeds have in common."""
        return self[:3]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.parent / f"seed_{self.seed}"

    @property
    def search_folder(self) -> Path:
        """Folder of the search for alpha and learning rate, which the seeds share."""
        return self.parent / "search"

    def run_settings(self, first_seed: Settings | None = None) -> Settings:
        """The run's settings, from those of the first seed (after a search: with the chosen values)."""
        base = first_seed or self.first_seed
        stages = tuple(replace(stage, seed=stage.seed + self.seed - 1) for stage in base.stages)
        run = replace(base.run, outpath=str(self.parent), exp_id=self.folder.name, jobs="1")
        return replace(base, stages=stages, run=run)


@dataclass(frozen=True)
class Grid:
    """All runs, seeds outermost: the first seed of each combination is trained first."""

    grid: GridSettings
    options: GridOptions
    cells: tuple[Cell, ...]
    report: Path  # of the report's files, without a suffix


def build_grid(
    values: Mapping[str, Any], problems: Problems, *, flatten: Flatten, forced: Mapping[str, Any], name: str
) -> Grid | None:
    """Check the plain ``values`` of a config with a ``grid { }`` block.

    Args:
        values: config key -> value, blocks nested.
        problems: each problem is added to it, under the key of the file.
        flatten: ``flatten(block, prefix)`` returns a block, whose keys start with ``prefix`` in the file, with dotted
            keys in the order in which they were set.
        forced: dotted keys and values from the command line.
        name: name of the config file: used for the report's files, and as the default of ``grid.name``.
    """
    block = values[GRID]
    if not isinstance(block, Mapping):
        problems.add(GRID, f"expected a block {{ ... }}, got {block!r}")
        return None
    block = {**{axis: [values[key]] for axis, key in _AXES.items() if key in values}, **block}
    inside = problems.at(f"{GRID}.")
    grid = _section(GridSettings, {key: value for key, value in block.items() if key != "define"}, inside)
    options = _section(GridOptions, {key: value for key, value in values.items() if key in _OPTIONS}, problems)
    if grid is None or options is None:
        return None
    for axis in (axis for axis in _AXES if not getattr(grid, axis)):
        inside.add(axis, "is empty; a grid needs at least one name on each axis")
    shard, _, shards = options.shard.partition("/")
    if int(shard) > int(shards):
        problems.add("shard", f"'{options.shard}' is not valid: <k>/<n> with k from 1 to n")
    define = block.get("define", {})
    _check_definitions(define, grid, inside)
    if problems.found:
        return None
    grid = replace(grid, name=grid.name or name)
    base = flatten({key: value for key, value in values.items() if key not in (GRID, *_OPTIONS)})
    forced = {key: value for key, value in forced.items() if key not in _OPTIONS and not key.startswith(f"{GRID}.")}
    combinations: list[tuple[tuple[str, str, str], Settings, Path]] = []
    for names in product(grid.networks, grid.datasets, grid.methods):
        merged, file_keys = base, dict[str, str]()
        for prefix, layer in (*_layers(define, names, flatten), ("", forced)):
            merged = {key: value for key, value in merged.items() if key not in layer} | layer  # the last set, last
            file_keys |= {key: prefix + key if prefix[-1:] in ("", ".") else prefix for key in layer}
        found = Problems()
        settings = build_settings(merged, found, forced=forced)
        if settings is not None and settings.run.repeat > 1:
            found.add("repeat", f"{settings.run.repeat} repeats in a grid; set grid.seeds instead")
        for key, message in found.found:
            message = message.replace("missing:", f"missing for {', '.join(names)}:", 1)
            key = file_keys.get(key, key)
            if defined := define.get(key.removeprefix(f"{GRID}."), {}):  # an axis with a name that is not defined
                message += f"; defined in this grid: {', '.join(defined)}"
            problems.add(key, message)
        if settings is not None:
            parent = Path(settings.run.outpath, *map(_file_name, (grid.name, *names)))
            combinations.append((names, settings, parent))
    if len({parent for *_, parent in combinations}) < len(combinations):
        problems.add(GRID, "two names of the grid have the same folder name; rename one of them")
    if problems.found:
        return None
    seeds = range(1, grid.seeds + 1)
    cells = tuple(Cell(*names, seed, settings, parent) for seed in seeds for names, settings, parent in combinations)
    return Grid(grid, options, cells, Path(str(base.get("outpath", "runs")), _file_name(grid.name), name))


def _section(section: type, values: Mapping[str, Any], problems: Problems) -> Any:
    """An instance of ``section``, or None if there are problems."""
    known = setting_fields(section)
    names = [*known, "define"]
    checked = check_values(values, known, problems, unknown=lambda key: f"unknown key{nearest(key, names)}")
    check_required(values, known, problems)
    return None if problems.found else section(**{known[key].name: value for key, value in checked.items()})


def _check_definitions(define: Any, grid: GridSettings, problems: Problems) -> None:
    """Check ``grid.define``: axis -> name -> settings; ``cells``: network -> data set -> method -> settings."""
    _check_blocks(define, "define", [], problems)
    for key, block in define.items() if isinstance(define, Mapping) else ():
        if key in _AXES:
            _check_blocks(block, f"define.{key}", [None], problems)
        elif key != "cells":
            problems.add(f"define.{key}", f"unknown key{nearest(key, (*_AXES, 'cells'))}")
    if not problems.found:
        # Settings of a combination that the axes do not contain would be ignored silently.
        names = [{*getattr(grid, axis), *define.get(axis, {})} for axis in _AXES]
        for name in grid.baseline:
            if name not in names[-1]:
                known = ", ".join(sorted(names[-1]))
                problems.add("baseline", f"'{name}' is not a method of the grid (known: {known})")
        _check_blocks(define.get("cells", {}), "define.cells", names, problems)


def _check_blocks(block: Any, key: str, names: Sequence[Collection[str] | None], problems: Problems) -> None:
    """Check that ``block`` is a block that contains nested blocks of ``names``, a collection per nesting depth."""
    if not isinstance(block, Mapping):
        problems.add(key, f"expected a block {{ ... }}, got {block!r}")
        return
    for name, inner in block.items() if names else ():
        if names[0] is not None and name not in names[0]:
            problems.add(f"{key}.{name}", f"not a name of this axis (known: {', '.join(sorted(names[0]))})")
        else:
            _check_blocks(inner, f"{key}.{name}", names[1:], problems)


def _layers(
    define: Mapping[str, Any], names: tuple[str, str, str], flatten: Flatten
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings that a grid defines for a combination, general ones first, each with the prefix of its keys.

    The prefix of a name that the grid does not define is the key of its axis.
    """
    for (axis, key), name in zip(_AXES.items(), names, strict=True):
        prefix = f"{GRID}.define.{axis}.{name}."
        block = define.get(axis, {}).get(name)
        yield (f"{GRID}.{axis}", {key: name}) if block is None else (prefix, flatten(block, prefix))
    block = define.get("cells", {})
    for name in names:
        block = block.get(name, {})
    prefix = ".".join([GRID, "define", "cells", *names, ""])
    yield prefix, flatten(block, prefix)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "_", name).strip("_.") or "_"
