"""A field of a settings dataclass: its key, reason and bounds, which ``values.py`` checks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, field
from typing import Any


def setting(
    key: str,
    reason: str,
    *,
    default: Any = MISSING,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
    pattern: str = "",
    changes_result: bool = True,
) -> Any:
    """A field of the settings, under ``key`` in the config file.

    ``choices`` and ``aliases`` (released name -> ours), or a ``pattern``, bound a string, ``low`` and
    ``high`` a number. A finished or unfinished run may go on with another value of a
    field that does not change its result.
    """
    metadata = {
        "key": key,
        "reason": reason,
        "low": low,
        "high": high,
        "choices": tuple(choices),
        "aliases": dict(aliases or {}),
        "pattern": pattern,
        "changes_result": changes_result,
    }
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)
