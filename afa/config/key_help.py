"""``help``: the keys of a config, or of a command without a config, as text."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field

from afa.config.grid import GRID_FIELDS, GridSettings
from afa.config.settings import (
    STAGE_FIELDS,
    BackboneSettings,
    ComputeSettings,
    DataSettings,
    RunSettings,
    StageSettings,
)
from afa.config.tasks import TASKS, is_setting, task_name
from afa.config.values import nearest
from afa.errors import ConfigError
from afa.fields import setting_fields

_WIDTH = 100  # columns


def help_text(arguments: Sequence[str]) -> str:
    """The answer to a command line that contains ``help``.

    Args:
        arguments: the others: ``mode=<task>`` selects the keys of a task, names select single keys; without names all
            keys are listed.

    Raises:
        ConfigError: there is no such key.
    """
    task = TASKS.get(task_name(arguments))
    names = [argument for argument in arguments if not is_setting(argument)]
    if task:
        sections = {task.settings: setting_fields(task.settings)}
    else:
        sections = {section: setting_fields(section) for section in (DataSettings, BackboneSettings)}
        sections[StageSettings] = STAGE_FIELDS
        sections |= {section: setting_fields(section) for section in (ComputeSettings, RunSettings)}
        sections[GridSettings] = GRID_FIELDS
    known = {key for fields in sections.values() for key in fields}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError([f"help: unknown key {name}{nearest(name, known)}" for name in unknown])
    if names:
        return "\n".join(
            _describe(name, fields[name]) for name in names for fields in sections.values() if name in fields
        )
    lists = [f"{_title(section)}\n{_list(fields)}" for section, fields in sections.items()]
    return "\n\n".join([*lists, "help <key> also prints the values that a key may have."])


def default_text(f: Field) -> str:
    """The default of a field as a config has it; ``required`` or ``empty`` if it has none."""
    if f.default is MISSING:
        return "required"
    if isinstance(f.default, bool):
        return str(f.default).lower()
    return "empty" if f.default == "" else str(list(f.default) if isinstance(f.default, tuple) else f.default)


def _title(section: type) -> str:
    return (section.__doc__ or "").splitlines()[0].replace("``", "")


def _list(fields: Mapping[str, Field]) -> str:
    """For each key its name, its default, and what it means."""
    lines = []
    for key, f in fields.items():
        first = f"  {key:19}  {default_text(f):19}  "
        lines += textwrap.wrap(
            f.metadata["reason"], _WIDTH, initial_indent=first, subsequent_indent=" " * 44, break_on_hyphens=False
        )
    return "\n".join(lines)


def _describe(key: str, f: Field) -> str:
    bounds = f.metadata
    facts = [f"default: {default_text(f)}"]
    if bounds["choices"]:
        facts.append(f"values: {', '.join(bounds['choices'])}")
    if bounds["aliases"]:
        facts.append(f"names in the authors' release: {', '.join(bounds['aliases'])}")
    if math.isfinite(bounds["low"]):
        facts.append(
            f"at least {bounds['low']:g}" + (f", at most {bounds['high']:.10g}" if bounds["high"] < math.inf else "")
        )
    if not bounds["changes_result"]:
        facts.append("an unfinished run may be resumed with another value")
    paragraphs = [f"{key}: {bounds['reason']}", *(f"  {fact}" for fact in facts)]
    return "\n".join(textwrap.fill(text, _WIDTH, subsequent_indent="    ") for text in paragraphs)
