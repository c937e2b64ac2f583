"""A config with a ``grid { }`` block to the runs that it means.

A cell's settings are the config's own keys, then those that the grid defines for its network, its
data set, its method and this very combination, then the command line; the later wins. Each goes
through the ordinary schema.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from afa.config.grid import GRID, OPTIONS, Cell, Grid, GridOptions, GridSettings
from afa.config.schema import build_settings
from afa.config.settings import RENAMED, Settings
from afa.config.values import Problem, check_values, missing_values, nearest

_AXES = ("networks", "datasets", "methods")

Values = dict[str, Any]
Settle = Callable[[Values], Values]


def build_grid(values: Values, settle: Settle, *, name: str) -> tuple[Grid | None, list[Problem]]:
    """Check a config with a ``grid { }`` block.

    Args:
        values: plain values as they stand in the file.
        settle: puts what the command line says over a cell's values.
        name: of the file, for the report's files and where the grid has no name of its own.

    Returns:
        the grid, or None with every problem; their keys are those of the file, with the blocks around them.
    """
    problems: list[Problem] = []
    block = values[GRID]
    if not isinstance(block, Mapping):
        return None, [Problem(GRID, f"expected a block {{ ... }}, got {block!r}")]
    axes = {key: value for key, value in block.items() if key != "define"}
    grid = _section(GridSettings, axes, f"{GRID}.", problems)
    options = _section(GridOptions, {key: value for key, value in values.items() if key in OPTIONS}, "", problems)
    if grid is None or options is None:
        return None, problems
    define = _definitions(block.get("define", {}), grid, problems)
    base = {key: value for key, value in values.items() if key not in (GRID, *OPTIONS)}
    if not _is_part(options.shard):
        problems.append(Problem("shard", f"'{options.shard}' is not right: k/n with k from 1 to n"))
    grid = replace(grid, name=grid.name or name)
    if problems:
        return None, problems
    cells = list(_cells(grid, define, base, settle, problems))
    if len({cell.folder for cell in cells}) < len(cells):
        problems.append(Problem(GRID, "two of its names give the same folder; rename one"))
    if problems:
        return None, problems
    return Grid(grid, options, tuple(cells), Path(str(base.get("outpath", "runs")), _file_name(grid.name), name)), []


def _section(section: type, values: Mapping[str, Any], prefix: str, problems: list[Problem]) -> Any:
    """An instance of ``section``, or None with what is wrong."""
    known = {f.metadata["key"]: f for f in fields(section)}
    checked, found = check_values(
        values, known, prefix, unknown=lambda key: f"unknown key{nearest(key, [*known, 'define'])}"
    )
    found += missing_values(values, known, prefix)
    problems += found
    return None if found else section(**{known[key].name: value for key, value in checked.items()})


def _definitions(define: Any, grid: GridSettings, problems: list[Problem]) -> Mapping[str, Any]:
    """``grid.define``: axis -> name -> settings; ``cells``: network -> data set -> method -> settings."""
    place = f"{GRID}.define"
    if not isinstance(define, Mapping):
        problems.append(Problem(place, f"expected a block {{ ... }}, got {define!r}"))
        return {}
    for key in define:
        if key not in (*_AXES, "cells"):
            problems.append(Problem(f"{place}.{key}", f"unknown key{nearest(key, (*_AXES, 'cells'))}"))
        elif not isinstance(define[key], Mapping):
            problems.append(Problem(f"{place}.{key}", f"expected a block {{ ... }}, got {define[key]!r}"))
    if problems:
        return {}
    known = [{*getattr(grid, axis), *define.get(axis, {})} for axis in _AXES]
    _check_cells(define.get("cells", {}), known, f"{place}.cells", problems)
    return define


def _check_cells(cells: Any, known: Sequence[Collection[str]], place: str, problems: list[Problem]) -> None:
    """Settings of a combination that no axis names would be lost without a word."""
    for name, inner in cells.items():
        if name not in known[0]:
            problems.append(Problem(f"{place}.{name}", f"no such name on its axis{nearest(name, known[0])}"))
        elif not isinstance(inner, Mapping):
            problems.append(Problem(f"{place}.{name}", f"expected a block {{ ... }}, got {inner!r}"))
        elif len(known) > 1:
            _check_cells(inner, known[1:], f"{place}.{name}", problems)


def _is_part(shard: str) -> bool:
    part, _, parts = shard.partition("/")
    return int(part) <= int(parts)


class _Layer(NamedTuple):
    """Settings of a cell, and where in the config they stand: ``grid.define.methods.AFA.``"""

    place: str
    values: Mapping[str, Any]


def _cells(
    grid: GridSettings, define: Mapping[str, Any], base: Values, settle: Settle, problems: list[Problem]
) -> Iterator[Cell]:
    settings = {}
    for names in product(grid.networks, grid.datasets, grid.methods):
        settings[names], found = _cell_settings(base, _layers(define, names), settle)
        where = f"missing for {', '.join(names)}:"
        problems += [problem._replace(message=problem.message.replace("missing:", where, 1)) for problem in found]
    for seed in range(1, grid.seeds + 1):
        for names, first_seed in settings.items():
            if first_seed is not None:
                place = Path(first_seed.run.outpath, *map(_file_name, (grid.name, *names)))
                yield Cell(*names, seed, first_seed, place)


def _layers(define: Mapping[str, Any], names: tuple[str, str, str]) -> list[_Layer]:
    """What the grid defines for a combination, from the general to the particular."""
    stand_for = ("base_model_name", "target_dataset", "reg_type")
    layers = []
    for axis, name, key in zip(_AXES, names, stand_for, strict=True):
        block = define.get(axis, {}).get(name)
        layers.append(
            _Layer(f"{GRID}.{axis}", {key: name}) if block is None else _Layer(f"{GRID}.define.{axis}.{name}.", block)
        )
    particular: Any = define.get("cells", {})
    for name in names:
        particular = particular.get(name, {})
    return [*layers, _Layer(".".join([GRID, "define", "cells", *names, ""]), particular)]


def _cell_settings(base: Values, layers: Sequence[_Layer], settle: Settle) -> tuple[Settings | None, list[Problem]]:
    merged = base
    for layer in layers:
        if not isinstance(layer.values, Mapping):
            return None, [Problem(layer.place.rstrip("."), f"expected a block {{ ... }}, got {layer.values!r}")]
        merged = _overlay(merged, layer.values)
    settled = {key: value for key, value in settle(merged).items() if key not in OPTIONS}
    settings, found = build_settings(settled)
    return settings, [problem._replace(key=_place(problem.key, layers)) for problem in found]


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Both, blocks key by key; ``above`` wins. An alpha there ends a search below."""
    merged = dict(below)
    if "alpha" in above:
        merged.pop("search", None)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _place(key: str, layers: Sequence[_Layer]) -> str:
    """The key as it stands in the config: in the last layer that sets it, else outside the grid."""
    names = [key, *(released for released, ours in RENAMED.items() if ours == key)]
    for layer in reversed(layers):
        for name in names:
            if _holds(layer.values, name):
                return layer.place + name if layer.place.endswith(".") else layer.place
    return key


def _holds(values: Any, key: str) -> bool:
    name, _, rest = key.partition(".")
    if key in values or not rest:
        return key in values
    return isinstance(values.get(name), Mapping) and _holds(values[name], rest)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "_", name).strip("_.") or "_"
