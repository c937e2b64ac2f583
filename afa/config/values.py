"""Values of settings: from ``key=value``, and checked against their field's type and bounds."""

import contextlib
import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin

from afa.errors import ConfigError
from afa.files import user_path
from afa.results.run_folder import find_checkpoint

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.ASCII | re.DOTALL)
_EXAMPLES = {float: "a number, for example 0.01", int: "an integer", str: "a string", bool: "true or false"}


class Problem(NamedTuple):
    """A problem with a key, for example ``first_stage.lr``, and a correct value."""

    key: str
    message: str


@dataclass
class Problems:
    """Collects problems; ``prefix`` is added to the keys."""

    prefix: str = ""
    found: list[Problem] = field(default_factory=list)

    def at(self, prefix: str) -> "Problems":
        """The same collection, for keys inside a block."""
        return Problems(self.prefix + prefix, self.found)

    def add(self, key: str, message: str) -> None:
        self.found.append(Problem(self.prefix + key, message))


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing if no known name is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def parse_assignments(
    arguments: Iterable[str], field_of: Callable[[str], Field | None], problems: Problems
) -> dict[str, Any]:
    """Read ``key=value`` arguments of the command line: key -> value, in the order in which the keys were last set.

    The value of a string's field is the text as it is, without the quotes of a JSON string. Any other value is
    read as JSON if it is JSON. As in a file, a list of names needs no quotes.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        match = ASSIGNMENT.fullmatch(argument)
        if not match:
            problems.add(argument, "expected key=value, for example batch_size=32")
            continue
        (key, text), value = match.groups(), match[2]
        known = field_of(key)
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
        if known is not None and known.type is str and not isinstance(value, str):
            value = text
        if known is not None and _item_type(known) is str and re.fullmatch(r"\[[^][\"]+\]", text):
            value = [name.strip() for name in text[1:-1].split(",")]
        if value is None:
            problems.add(key, f"null is not a value; {key}= sets an empty string")
        elif isinstance(value, dict):
            problems.add(key, f"a block cannot be set; set its keys one by one, {key}.key=value")
        else:
            values.pop(key, None)
            values[key] = value
    return values


def _item_type(f: Field) -> Any:
    """The type of the values of a list; None for a field of another type."""
    return next((get_args(kind)[0] for kind in (f.type, *get_args(f.type)) if get_origin(kind) is tuple), None)


def check_values(
    values: Mapping[str, Any], known: Mapping[str, Field], problems: Problems, *, unknown: Callable[[str], str]
) -> dict[str, Any]:
    """The correct values in their fields' types; ``unknown`` gives the message for a key that is not ``known``."""
    checked = {}
    for key, value in values.items():
        try:
            if key not in known:
                raise ValueError(unknown(key))
            checked[key] = check_value(known[key], value)
        except ValueError as error:
            problems.add(key, str(error))
    return checked


def check_required(keys: Collection[str], known: Mapping[str, Field], problems: Problems) -> None:
    """Add a problem for each field without a default whose key is not in ``keys``."""
    for key, f in known.items():
        if f.default is MISSING and key not in keys:
            problems.add(key, f"missing: {f.metadata['reason']}")


def check_paths(
    values: Mapping[str, Any], field_of: Callable[[str], Field | None], outpath: str, problems: Problems
) -> None:
    """Check that the files and checkpoints that correct values name exist; ``outpath`` contains the runs."""
    for key, value in values.items():
        f = field_of(key)
        kind = f.metadata["names"] if f else ""
        for path in filter(None, [value] if isinstance(value, str) else value if kind else ()):
            if kind == "file" and not Path(path).is_file():
                problems.add(key, f"no such file: {path}")
            if kind == "checkpoint":
                try:
                    find_checkpoint(path, outpath)
                except ConfigError as error:
                    problems.add(key, str(error))


def check_value(f: Field, value: Any) -> Any:
    """Convert ``value`` to the type of a field that ``setting`` created.

    Raises:
        ValueError: it has another type or is out of bounds; the message says what would be right.
    """
    wanted: Any = f.type
    bounds = f.metadata
    if isinstance(wanted, UnionType) and type(value) is int:  # a number of names instead of a list
        wanted = int
    elif item := _item_type(f):
        return _check_list(item, bounds, value)
    if wanted is bool and value == "":  # the released configs leave `resume` empty
        return f.default
    if wanted is str and type(value) is int:
        value = str(value)
    if wanted in (int, float) and type(value) in (int, wanted):
        return _check_number(wanted, bounds, value)
    if type(value) is not wanted:
        raise ValueError(f"expected {_EXAMPLES[wanted]}, got {_describe(value, wanted)}")
    if bounds["names"] and value != f.default:
        value = _path_text(value)
    if bounds["pattern"] and not re.fullmatch(bounds["pattern"], value):
        raise ValueError(f"'{value}' is not valid: {bounds['reason']}")
    if bounds["choices"]:
        value = bounds["aliases"].get(value, value)
        if value not in bounds["choices"]:
            known = [*bounds["choices"], *bounds["aliases"]]
            raise ValueError(f"unknown value '{value}'{nearest(value, known)} (known: {', '.join(known)})")
    return value


def _path_text(value: str) -> str:
    try:
        return str(user_path(value)) if value.startswith("~") else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _check_number(wanted: type, bounds: Mapping[str, Any], value: Any) -> Any:
    low, high = bounds["low"], bounds["high"]
    is_huge = isinstance(value, int) and abs(value) >= 2**63  # possibly too large for a float
    if is_huge or not (math.isfinite(value) and low <= value <= high):
        shown = f"a number of {len(str(abs(value)))} digits" if is_huge else wanted(value)
        expected = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
        raise ValueError(f"{shown} is out of range; expected {expected}")
    return wanted(value)


def _check_list(item: type, bounds: Mapping[str, Any], value: Any) -> Any:
    types = (int, float) if item is float else (item,)
    if not isinstance(value, list | tuple) or not all(type(entry) in types for entry in value):
        kind = "names" if item is str else "numbers"
        raise ValueError(f"expected a list of {kind}, for example {bounds['example']}, got {value!r}")
    return tuple(_check_number(float, bounds, entry) if item is float else entry for entry in value)


def _describe(value: Any, wanted: type) -> str:
    """The value as the user wrote it, and if it can be guessed, what to write instead."""
    if isinstance(value, str) and wanted in (int, float):
        try:
            number = wanted(float(value))
        except (ValueError, OverflowError):
            return f"the string '{value}'"
        is_same = math.isfinite(number) and number == float(value)
        return f"the string '{value}'" + (f"; write {number!r}" if is_same else "")
    if wanted is bool and isinstance(value, str):
        meant = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
        fix = meant.get(value.lower())
        return f"'{value}'" + (f"; write {fix}" if fix else "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a block { ... }"
    if isinstance(value, int | float) and wanted is str:
        return f'the number {value}; write "{value}" in quotes'
    return "nothing" if value is None else f"{type(value).__name__} {value}"
