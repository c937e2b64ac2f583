"""One value against its field's type and bounds, and what to say where it is wrong."""

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, Field
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin

_EXAMPLES = {float: "a number, for example 0.01", int: "a whole number", str: "a string", bool: "true or false"}


class Problem(NamedTuple):
    """What is wrong with one key, for example ``first_stage.lr``, and what would be right."""

    key: str
    message: str


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing where no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


class Checked(NamedTuple):
    """A value in its field's type and bounds."""

    value: Any


def check_value(f: Field, value: Any) -> Checked | Problem:
    """``value`` in the type and bounds of a field made by ``setting``, or what is wrong with it, without its key."""
    wanted: Any = f.type
    bounds = f.metadata
    if isinstance(wanted, UnionType):  # a list of names, or their number
        wanted = int if type(value) is int else get_args(wanted)[0]
    if get_origin(wanted) is tuple:
        return _check_list(get_args(wanted)[0], bounds, value)
    if wanted in (int, float) and isinstance(value, int) and abs(value) >= 2**63:  # no float may hold it
        return Problem(
            "", f"a number of {len(str(abs(value)))} digits is out of range: {_range(bounds['low'], bounds['high'])}"
        )
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is str and isinstance(value, int) and not isinstance(value, bool) and f.name in ("gpu_id", "exp_id"):
        value = str(value)
    if wanted is bool and value == "":  # the released configs' way to leave `resume` out
        return Checked(f.default)
    if type(value) is not wanted:
        return Problem("", f"expected {_EXAMPLES[wanted]}, got {_describe(value, wanted)}")
    if wanted in (int, float) and not (math.isfinite(value) and bounds["low"] <= value <= bounds["high"]):
        return Problem("", f"{value} is out of range: {_range(bounds['low'], bounds['high'])}")
    if bounds["pattern"] and not re.fullmatch(bounds["pattern"], value):
        return Problem("", f"'{value}' is not right: {bounds['reason']}")
    if bounds["choices"]:
        value = bounds["aliases"].get(value, value)
        if value not in bounds["choices"]:
            known = [*bounds["choices"], *bounds["aliases"]]
            return Problem("", f"unknown value '{value}'{nearest(value, known)} (known: {', '.join(known)})")
    return Checked(value)


def check_values(
    values: Mapping[str, Any], known: Mapping[str, Field], prefix: str, *, unknown: Callable[[str], str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The values that are right, under their keys, and what is wrong with the others.

    ``known``: key -> its field; ``unknown``: what to say of a key that is none; ``prefix`` stands before keys there.
    """
    checked, problems = {}, []
    for key, value in values.items():
        outcome = check_value(known[key], value) if key in known else Problem("", unknown(key))
        if isinstance(outcome, Problem):
            problems.append(outcome._replace(key=prefix + key))
        else:
            checked[key] = outcome.value
    return checked, problems


def missing_values(given: Collection[str], known: Mapping[str, Field], prefix: str = "") -> list[Problem]:
    """A problem for each field without a default whose key is not given."""
    return [
        Problem(prefix + key, f"missing: {f.metadata['reason']}")
        for key, f in known.items()
        if f.default is MISSING and key not in given
    ]


def _check_list(item: type, bounds: Mapping[str, Any], value: Any) -> Checked | Problem:
    """A list of strings, or of numbers in the field's bounds."""
    if item is float and isinstance(value, list | tuple) and not any(isinstance(entry, bool) for entry in value):
        value = [float(entry) if isinstance(entry, int) and abs(entry) < 2**63 else entry for entry in value]
    if not isinstance(value, list | tuple) or not all(isinstance(entry, item) for entry in value):
        example = 'strings, for example ["layer1", "layer2"]' if item is str else "numbers, for example [0.01, 0.03]"
        return Problem("", f"expected a list of {example}, got {value!r}")
    for entry in value if item is float else ():
        if not (math.isfinite(entry) and bounds["low"] <= entry <= bounds["high"]):
            return Problem("", f"{entry} is out of range: {_range(bounds['low'], bounds['high'])}")
    return Checked(tuple(value))


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at least {low:g} is right"
    return f"{low:g} to {high:g} is right"


def _describe(value: Any, wanted: type) -> str:
    """The value as the user wrote it, and where it can be guessed, what to write in its place."""
    if isinstance(value, str) and wanted in (int, float):
        try:
            number = wanted(float(value))
        except (ValueError, OverflowError):
            return f"the string '{value}'"
        same = math.isfinite(number) and number == float(value)
        return f"the string '{value}'" + (f"; write {number!r}" if same else "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a block { ... }"
    if isinstance(value, int | float) and wanted is str:
        return f'the number {value}; write "{value}" in quotes'
    return "nothing" if value is None else f"{type(value).__name__} {value}"
