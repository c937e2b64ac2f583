"""The configs and the demo data of this program, found from any working directory."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = Path("hocon_config")
SHIPPED_ROOT = _PACKAGE if (_PACKAGE / CONFIGS).is_dir() else _PACKAGE.parent
"""The folder that contains ``hocon_config/`` and ``demo/``: the repository, or the installed package."""


def find_config(name: str | Path) -> Path:
    """The file ``name`` of the working directory; otherwise the shipped config of this path or short name.

    ``demo`` is ``hocon_config/demo/afa.hocon``, ``paper/table_4`` is ``hocon_config/paper/table_4.hocon``. A path that
    does not exist is returned as it is.
    """
    configs = SHIPPED_ROOT / CONFIGS
    choices = (SHIPPED_ROOT / name, configs / name, configs / f"{name}.hocon", configs / name / "afa.hocon")
    return next((path for path in (Path(name), *choices) if path.is_file()), Path(name))


def config_names() -> list[str]:
    """Paths and short names of the shipped configs."""
    paths = sorted(path.relative_to(SHIPPED_ROOT / CONFIGS) for path in (SHIPPED_ROOT / CONFIGS).rglob("*.hocon"))
    short = [path.parent if path.stem == "afa" else path.with_suffix("") for path in paths]
    return [*(str(CONFIGS / path) for path in paths), *map(str, short)]


def shipped_path(value: str, config: Path) -> str:
    """The path ``value`` of a file or folder as the working directory needs it.

    A relative path in a shipped ``config`` is relative to the shipped root if it exists there.
    """
    is_shipped = config.is_file() and config.resolve().is_relative_to(SHIPPED_ROOT / CONFIGS)
    if not value or not is_shipped or Path.cwd() == SHIPPED_ROOT or not (SHIPPED_ROOT / value).exists():
        return value
    return str(SHIPPED_ROOT / value)
