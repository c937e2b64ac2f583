"""``setting``: a field of a settings dataclass with its config key, its description and its bounds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any


def setting(
    reason: str,
    *,
    key: str = "",
    default: Any = MISSING,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
    pattern: str = "",
    names: str = "",
    example: str = "",
    changes_result: bool = True,
) -> Any:
    """A dataclass field that is read from ``key`` of the config file, by default its name; ``afa/config`` checks it.

    ``choices`` and ``aliases`` (released name -> ours) or a ``pattern`` restrict a string, ``low`` and
    ``high`` (inclusive) a number. ``names``: what the string is the path of: ``file``, ``folder`` or ``checkpoint``.
    ``example``: of a list, for the message that expects one. A run may be resumed with another value of a field that
    has ``changes_result=False``.
    """
    metadata = {"key": key, "reason": reason, "low": low, "high": high, "pattern": pattern, "names": names}
    metadata |= {"example": example, "choices": tuple(choices), "aliases": dict(aliases or {})}
    return field(default=default, metadata={**metadata, "changes_result": changes_result})


def setting_fields(section: type) -> dict[str, Field]:
    """Config key -> field, of the fields of a dataclass that ``setting`` created."""
    return {f.metadata["key"] or f.name: f for f in fields(section) if f.metadata}
