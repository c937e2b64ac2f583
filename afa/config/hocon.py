"""HOCON files and command-line words to settings, and back. The only module that knows pyhocon."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pyparsing
from pyhocon import ConfigException, ConfigFactory, ConfigTree  # type: ignore[import-untyped]

from afa.config.grid import GRID, Grid
from afa.config.grid_cells import build_grid
from afa.config.paths import check_paths
from afa.config.scanner import Finding, Origin
from afa.config.schema import build_settings
from afa.config.settings import FIELDS, RENAMED, STAGE_KEYS, STAGE_NAMES, Settings
from afa.config.source import COMMAND_LINE, Source, read_source
from afa.config.values import Problem
from afa.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*", re.ASCII)
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def load_settings(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = False) -> Settings:
    """Read a config file.

    Args:
        path: the HOCON file.
        overrides: words of the command line, ``key=value`` or ``first_stage.key=value``. The
            value is JSON where it can be read as JSON, else a string as it stands. They win
            over the file; a stage's key without the stage's name wins for every stage.
        check_files: whether the files and folders that the settings name must be there.

    Raises:
        ConfigError: with every problem found, one a line: file, line, key, what would be right.
    """
    config = load_config(path, overrides, check_files=check_files)
    if isinstance(config, Grid):
        raise ConfigError(f"{path}: a grid of {len(config.cells)} runs; one run is expected here")
    return config


def load_config(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = False) -> Settings | Grid:
    """Read a config file, be it of one run or of a grid of runs; see ``load_settings``.

    The files of a grid's runs are not looked for: some may be there, and others not.
    """
    given, findings = _read_overrides(overrides)
    source = read_source(Path(path), extra=[f"{key} = {_to_hocon(value)}" for key, value in given.items()])
    findings += source.findings
    values = _parse(source, findings)
    config: Settings | Grid | None = None
    problems: list[Problem] = []
    if values is not None and GRID in values:
        settle = partial(_settle, given=given, keys=source.keys)
        config, problems = build_grid(values, settle, name=Path(path).stem)
    elif values is not None:
        config, problems = build_settings(_latest_win(values, given, source.keys), *[check_paths] * check_files)
    # Where an include was refused, what it would have set is not missing.
    findings += [_located(found, source) for found in problems if source.complete or not _is_missing(found)]
    if findings or config is None:
        raise ConfigError(_lines(findings))
    return config


def format_settings(settings: Settings) -> str:
    """HOCON that loads back as equal settings, every key in it."""
    nested = len(settings.stages) > 1
    parts = ["# data", *_assignments(settings.data), "", "# backbone", *_assignments(settings.backbone)]
    for name, stage in zip(STAGE_NAMES, settings.stages, strict=False):
        lines = _assignments(stage)
        parts += ["", f"{name} {{", *(f"  {line}" for line in lines), "}"] if nested else ["", "# stage", *lines]
    parts += ["", "# compute", *_assignments(settings.compute), "", "# run", *_assignments(settings.run), ""]
    return "\n".join(parts)


def _assignments(section: Any) -> list[str]:
    return [f"{f.metadata['key']} = {_to_hocon(getattr(section, f.name))}" for f in fields(section)]


def _to_hocon(value: Any) -> str:
    """JSON, but with pyhocon's few escapes: it does not know ``\\u0041``."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_to_hocon, value))}]"
    return json.dumps(value)


def _read_overrides(words: Iterable[str]) -> tuple[dict[str, Any], list[Finding]]:
    """Key -> value of each word, in the order in which the keys were last given, and the words that are wrong."""
    given: dict[str, Any] = {}
    findings = []
    for word in words:
        key, sign, text = word.partition("=")
        value = _read_value(text)
        if not sign or not _KEY.fullmatch(key):
            findings.append(Finding(COMMAND_LINE, 0, word, "expected key=value, for example lr=0.01"))
        elif value is None:
            findings.append(Finding(COMMAND_LINE, 0, key, f"null is no value; {key}= gives an empty string"))
        elif isinstance(value, dict):
            findings.append(Finding(COMMAND_LINE, 0, key, f"give its keys one by one, {key}.key=value"))
        else:
            given.pop(key, None)
            given[key] = value
    return given, findings


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _parse(source: Source, findings: list[Finding]) -> dict[str, Any] | None:
    """Plain values; None, with a finding more, where pyhocon cannot read the text."""
    if source.readable is None:
        return None
    whitespace = pyparsing.ParserElement.DEFAULT_WHITE_CHARS
    try:
        tree = ConfigFactory.parse_string(source.readable)
    except Exception as error:  # on a bad text pyhocon also raises what it does not mean to
        findings.append(_unreadable(error, source))
        return None
    finally:
        # pyhocon changes it for the whole process, and after an error leaves it so.
        pyparsing.ParserElement.set_default_whitespace_chars(whitespace)
    if not isinstance(tree, ConfigTree):
        findings.append(Finding(source.file, 0, "", "holds a list; write one key = value a line"))
        return None
    return _plain_block(tree, "", source, findings)


def _unreadable(error: Exception, source: Source) -> Finding:
    if isinstance(error, pyparsing.ParseBaseException):
        origin = source.origins[min(error.lineno, len(source.origins)) - 1]
        line = source.text.split("\n")[error.lineno - 1].strip()
        message = f"cannot read '{line}'; write one key = value a line, strings in quotes"
        return Finding(*origin, "", message)
    text = str(error) if isinstance(error, ConfigException) else f"cannot be read: {error!r}"
    place = re.search(r"line: ?(\d+)", text)
    origin = source.origins[int(place[1]) - 1] if place else Origin(source.file, 0)
    return Finding(*origin, "", re.sub(r":? \(line: ?\d+, col: ?\d+\)", "", text.split("\n")[0]))


def _plain_block(tree: Mapping[str, Any], prefix: str, source: Source, findings: list[Finding]) -> dict[str, Any]:
    plain = {}
    for key, value in tree.items():
        name = key.strip('"')
        plain[name] = _plain(value, prefix + name, source, findings)
    return plain


def _plain(value: Any, key: str, source: Source, findings: list[Finding]) -> Any:
    """``value`` in Python's own types; pyhocon's stay in this module."""
    if isinstance(value, Mapping):
        return _plain_block(value, f"{key}.", source, findings)
    if isinstance(value, list):
        return [_plain(item, key, source, findings) for item in value]
    if value is not None and not isinstance(value, bool | int | float | str):
        findings.append(_located(Problem(key, "reads as a duration; put it in quotes"), source))
        return ""
    return value


def _latest_win(values: dict[str, Any], given: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """``values`` without what a key given later, or on the command line, says otherwise."""
    order = {key: place for place, key in enumerate(keys)}
    for released, ours in RENAMED.items():
        if released in values and ours in values:
            del values[min(released, ours, key=lambda key: order.get(key, -1))]
    for name in STAGE_NAMES:
        if isinstance(values.get(name), dict):
            for key in given:
                if key in STAGE_KEYS and f"{name}.{key}" not in given:
                    _remove(values[name], key)
    if "alpha" in given and "search.alpha" not in given:
        for block in (values, *(values[name] for name in STAGE_NAMES if isinstance(values.get(name), dict))):
            _remove(block, "search.alpha")
    return values


def _put(block: dict[str, Any], names: Sequence[str], value: Any) -> None:
    """Set a key of the block, or of blocks in it."""
    for name in names[:-1]:
        block = block.setdefault(name, {})
    block[names[-1]] = value


def _remove(block: dict[str, Any], key: str) -> None:
    """Take a key out, be it one of a block in the block."""
    name, _, rest = key.partition(".")
    if not rest:
        block.pop(name, None)
    elif isinstance(block.get(name), dict):
        block[name].pop(rest, None)


def _settle(values: dict[str, Any], given: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """``values`` of one run of a grid, with what the command line says over them."""
    settled = deepcopy(values)
    for key, value in given.items():
        names = key.split(".")
        if key in FIELDS or names[0] in STAGE_NAMES:
            _put(settled, names, value)
    return _latest_win(settled, given, keys)


def _is_missing(problem: Problem) -> bool:
    return problem.message.startswith("missing")


def _located(problem: Problem, source: Source) -> Finding:
    """The problem with the place of its key; of the nearest block around it, if the file does not set the key."""
    names = [problem.key, *(released for released, ours in RENAMED.items() if ours == problem.key)]
    key = next((name for name in names if name in source.keys), problem.key)
    origin = source.keys.get(key)
    if origin is None and not _is_missing(problem):
        origin = source.keys.get(key.rpartition(".")[0])
    return Finding(*(origin or Origin(source.file, 0)), key, problem.message)


def _lines(findings: Iterable[Finding]) -> list[str]:
    """One line for each place and key, in the order of the files."""
    lines: dict[tuple[str, str], str] = {}
    for file, line, key, message in sorted(findings, key=lambda finding: finding[:2]):
        place = f"{file}:{line}" if line else file
        lines.setdefault((place, key or message), f"{place}: {key}: {message}" if key else f"{place}: {message}")
    return list(lines.values())
