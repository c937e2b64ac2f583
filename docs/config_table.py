"""The README's table of settings and that of grids, from the settings themselves: ``python docs/config_table.py``."""

import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from afa.config.grid import GRID, GridOptions, GridSettings
from afa.config.settings import FIELDS
from afa.config.tasks import TASKS


def config_table() -> str:
    """Markdown, a row a key, in the order of the settings."""
    return _table({key: field for key, (_, field) in FIELDS.items()})


def grid_table() -> str:
    """The same of a grid's keys, for ``docs/reproduce-the-paper.md``."""
    inside = {f"{GRID}.{field.metadata['key']}": field for field in fields(GridSettings)}
    return _table(inside | {field.metadata["key"]: field for field in fields(GridOptions)})


def task_tables() -> str:
    """The keys of what is done without a config file, for ``docs/your-own-data.md``."""
    tables = []
    for name, task in TASKS.items():
        title = f"`{name}=<data set>`" if name == "prepare" else f"`mode={name}`"
        keys = {field.metadata["key"]: field for field in fields(task.settings)}
        tables.append(f"{title}\n\n{_table(keys)}")
    return "\n\n".join(tables)


def _table(keys: dict[str, Field]) -> str:
    rows = [f"| `{key}` | {_default(field)} | {field.metadata['reason']} |" for key, field in keys.items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _default(field: Field) -> str:
    if field.default is MISSING:
        return "needed"
    if field.default == "":
        return "empty"
    text = {True: "true", False: "false"}.get(field.default) if isinstance(field.default, bool) else None
    return f"`{text or (list(field.default) if isinstance(field.default, tuple) else field.default)}`"


if __name__ == "__main__":
    print(config_table(), grid_table(), task_tables(), sep="\n\n")
