"""Print the tables of keys in the README and docs/, from the settings themselves: ``python docs/config_table.py``."""

import sys
from dataclasses import Field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from afa.config.grid import GRID_FIELDS
from afa.config.key_help import default_text
from afa.config.settings import FIELDS
from afa.config.tasks import TASKS
from afa.fields import setting_fields


def config_table() -> str:
    """Markdown with one row per key, in the order of the settings, for the README."""
    return _table(FIELDS)


def grid_table() -> str:
    """The keys of a grid, for ``docs/reproduce-the-paper.md``."""
    return _table(GRID_FIELDS)


def task_tables() -> str:
    """The keys of the tasks without a config file, for ``docs/your-own-data.md``."""
    tables = []
    for name, task in TASKS.items():
        title = f"`{name}=<data set>`" if name == "prepare" else f"`mode={name}`"
        tables.append(f"{title}\n\n{_table(setting_fields(task.settings))}")
    return "\n\n".join(tables)


def _table(keys: dict[str, Field]) -> str:
    reasons = {key: field.metadata["reason"].replace("<", "&lt;") for key, field in keys.items()}
    rows = [f"| `{key}` | {_default(field)} | {reasons[key]} |" for key, field in keys.items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _default(field: Field) -> str:
    text = default_text(field)
    return text if text in ("required", "empty") else f"`{text}`"


if __name__ == "__main__":
    print(config_table(), grid_table(), task_tables(), sep="\n\n")
