"""Command-line words without a config file -> a task and its settings, or every problem found."""

import json
import re
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

from afa.config.tasks import TASKS, Task
from afa.config.values import Problem, check_values, missing_values, nearest
from afa.errors import ConfigError

_WORD = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.ASCII | re.DOTALL)


def is_setting(word: str) -> bool:
    """Whether a word is ``key=value``, and not a file's name."""
    return _WORD.fullmatch(word) is not None


def task_name(words: Sequence[str]) -> str:
    """The name of the task that words choose; empty where they choose none."""
    chosen = {match[1]: match[2] for match in map(_WORD.fullmatch, words) if match}
    if "prepare" in chosen and "mode" not in chosen:
        return "prepare"
    return chosen.get("mode", "")


def load_task(words: Sequence[str]) -> tuple[Task, Any]:
    """The task and its settings.

    Raises:
        ConfigError: with every problem found, one a line: key, what would be right.
    """
    name = task_name(words)
    if name not in TASKS:
        raise ConfigError(_no_task(name))
    task, problems = TASKS[name], []
    wanted = {f.metadata["key"]: f for f in fields(task.settings)}
    checked: dict[str, Any] = {}
    given = set()

    def unknown(key: str) -> str:
        return f"unknown key of {name}{nearest(key, wanted)} (known: {', '.join(wanted)})"

    for word in words:
        match = _WORD.fullmatch(word)
        if not match:
            problems.append(Problem(word, "expected key=value, for example batch_size=32"))
            continue
        key, text = match.groups()
        if key == "mode":
            continue
        given.add(key)
        own, found = check_values({key: _read(text, wanted.get(key))}, wanted, "", unknown=unknown)
        checked |= own
        problems += found
    problems += missing_values(given, wanted)
    problems += task.check(checked)
    if problems:
        raise ConfigError([f"command line: {key}: {message}" for key, message in problems])
    return task, task.settings(**{wanted[key].name: value for key, value in checked.items()})


def _read(text: str, f: Field | None) -> Any:
    """The value as JSON, but a string as it stands: a folder may be called 2024."""
    if f is not None and f.type is str:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _no_task(name: str) -> str:
    choices = ", ".join("prepare=<data set>" if task == "prepare" else f"mode={task}" for task in TASKS)
    if name in ("train", "eval"):
        return f"command line: mode={name} needs a CONFIG as the first word, for example hocon_config/demo/afa.hocon"
    if name:
        return f"command line: mode: unknown value '{name}'{nearest(name, TASKS)} (known without a CONFIG: {choices})"
    return f"command line: nothing to do; the first word is a CONFIG, or there is one of {choices}"
