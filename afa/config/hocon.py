"""HOCON files and command-line arguments -> settings. The only module that uses pyhocon."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyparsing
from pyhocon import ConfigException, ConfigFactory, ConfigTree  # type: ignore[import-untyped]

from afa.config.config_text import COMMAND_LINE, MAX_BYTES, Finding, Index, Origin, RefusedError, Scanner, Source, shown
from afa.config.formatting import to_hocon
from afa.config.grid import GRID, GRID_FIELDS, Grid, build_grid
from afa.config.schema import build_settings, flatten
from afa.config.settings import RENAMED, Settings, field_of
from afa.config.shipped import config_names, find_config, shipped_path
from afa.config.values import Problem, Problems, nearest, parse_assignments
from afa.errors import ConfigError


def load_settings(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = False) -> Settings:
    """Read a config file of one run.

    Args:
        path: the HOCON file.
        overrides: arguments of the command line, ``key=value`` or ``first_stage.key=value``, see ``parse_assignments``.
            They have precedence over the file, and without the name of a stage over its blocks, too.
        check_files: whether the files and folders that the settings name must exist.

    Raises:
        ConfigError: all syntax errors, or if there are none all other problems, each on its own line: file, line,
            key, what would be right.
    """
    return _single_run(load_config(path, overrides, check_files=check_files), str(path))


def load_config(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = False) -> Settings | Grid:
    """Read a config file of one run or of a grid of runs; see ``load_settings``.

    ``check_files`` does not apply to a grid: the runs whose files exist can be trained.
    """
    path = find_config(path)
    try:
        source = Source(shown(path.resolve()))
        source.read_file(path.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except RefusedError as refused:
        known = [str(other) for other in (*sorted(path.parent.glob("*.hocon")), *config_names())]
        hint = "" if path.exists() else nearest(str(path), known)
        raise ConfigError(f"{path}: {refused}{hint}") from None
    return _build(source, overrides, name=path.stem, check_files=check_files)


def parse_settings(text: str, name: str = "settings") -> Settings:
    """Read a config without includes from ``text``, for example from ``format_settings``; errors call it ``name``."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} characters")
    source = Source(name)
    source.add_text(text, name)
    return _single_run(_build(source, (), name=name), name)


def _single_run(config: Settings | Grid, name: str) -> Settings:
    if isinstance(config, Grid):
        raise ConfigError(f"{name}: a grid of {len(config.cells)} runs; expected a single run")
    return config


def _build(source: Source, overrides: Sequence[str], *, name: str, check_files: bool = False) -> Settings | Grid:
    problems = Problems()
    forced = parse_assignments(overrides, lambda key: GRID_FIELDS.get(key) or field_of(key), problems)
    source.findings += [(COMMAND_LINE, *problem) for problem in problems.found]
    # In the text, so that substitutions see them.
    source.lines += [(f"{key} = {to_hocon(value)}", COMMAND_LINE) for key, value in forced.items()]
    index = Scanner(source).scan()
    if source.findings:
        raise ConfigError(_format(source.findings))
    values, positions = _parse(source, index), {key: position for position, key in enumerate(index)}

    def ordered(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        items = flatten(block).items()
        return dict(sorted(items, key=lambda item: positions.get(_enclosing(prefix + item[0], index), -1)))

    problems = Problems()
    config: Settings | Grid | None
    if GRID in values:
        config = build_grid(values, problems, flatten=ordered, forced=forced, name=name)
    else:
        config = build_settings(ordered(values), problems, forced=forced, check_files=check_files)
    if config is None:
        raise ConfigError(_format(_located(problem, index, source.name) for problem in problems.found))
    return config


def _parse(source: Source, index: Index) -> dict[str, Any]:
    """The values of the text in Python's own types. Raises ConfigError if pyhocon cannot read it."""
    whitespace = pyparsing.ParserElement.DEFAULT_WHITE_CHARS
    try:
        tree = ConfigFactory.parse_string(source.text)
        if not isinstance(tree, ConfigTree):
            raise ConfigException("contains a list; write one key = value per line")
        return _plain(tree, "", index)
    except pyparsing.ParseBaseException as error:
        number = min(error.lineno, len(source.lines))
        line = source.lines[number - 1][0].strip()
        message = f"cannot read '{line}'; write one key = value per line, strings in quotes"
    except Exception as error:  # for malformed text pyhocon also raises errors of other types
        message = str(error).split("\n")[0] if isinstance(error, ConfigException) else f"cannot be read: {error!r}"
        number = int(numbers[1]) if (numbers := re.search(r"line: ?(\d+)", message)) else 0
        message = re.sub(r":? \(line: ?\d+, col: ?\d+\)", "", message)
    finally:
        # pyhocon changes it for the entire process, and does not restore it after an error.
        pyparsing.ParserElement.set_default_whitespace_chars(whitespace)
    origin = source.lines[number - 1][1] if number else (source.name, 0)
    raise ConfigError(_format([(origin, "", message)]))


def _plain(value: Any, key: str, index: Index) -> Any:
    """Convert pyhocon's types to Python's; restore the text of a string that pyhocon read as a number or a boolean.

    The paths of a shipped config become paths that the working directory needs.
    """
    if isinstance(value, Mapping):
        names = {name: name.strip('"') for name in value}
        return {names[name]: _plain(value[name], f"{key}.{names[name]}".lstrip("."), index) for name in value}
    if isinstance(value, list):
        return [_plain(item, "", index) for item in value]
    f = GRID_FIELDS.get(key) or field_of(key)
    if f is None or key not in index:
        return value
    if f.metadata["names"] in ("file", "folder") and isinstance(value, str):
        return shipped_path(value, Path(index[key].origin[0]))
    return (index[key].text or value) if f.type is str and isinstance(value, int | float) else value


def _enclosing(key: str, index: Index) -> str:
    """``key`` if it is in the index, otherwise the innermost block around it, or nothing."""
    while key and key not in index:
        key = key.rpartition(".")[0]
    return key


def _located(problem: Problem, index: Index, file: str) -> Finding:
    """The problem with the line of its key; without a line if the key is missing."""
    names = (problem.key, *(released for released, ours in RENAMED.items() if ours == problem.key))
    key = next((name for name in reversed(index) if name in names), problem.key)
    entry = index.get(key if problem.message.startswith("missing") else _enclosing(key, index))
    return entry.origin if entry else (file, 0), key, problem.message


def _format(findings: Iterable[Finding]) -> list[str]:
    """One line for each origin and key, sorted by file and line."""
    lines: dict[tuple[Origin, str], str] = {}
    for origin, key, message in sorted(findings, key=lambda finding: finding[0]):
        position = f"{origin[0]}:{origin[1]}" if origin[1] else origin[0]
        lines.setdefault((origin, key or message), f"{position}: {key}: {message}" if key else f"{position}: {message}")
    return list(lines.values())
