"""Imports only go down: who reads one floor need not know those above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "method": {"method", "errors"},
    "networks": {"networks", "method", "errors"},
    "data": {"data", "errors"},
    "prepare": {"prepare", "data", "config", "results", "errors"},
    "results": {"results", "errors"},
    "config": {"config", "method", "networks", "data", "errors"},
    "report": {"report", "inference", "training", "config", "results", "data", "networks", "method", "errors"},
    "grid": {"grid", "report", "training", "config", "results", "data", "networks", "method", "errors"},
    "training": {"training", "config", "results", "data", "networks", "method", "errors"},
    "inference": {"inference", "training", "config", "results", "data", "networks", "method", "errors"},
}
WITHOUT_TORCH = [
    "errors.py",
    "command_line.py",
    "config",
    "method/catalogue.py",
    "networks/backbones.py",
    "data/folders.py",
    "data/catalogue.py",
    "prepare",
]


def imports(path: Path) -> set[str]:
    """Modules that a file imports at its top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "afa").rglob("*/*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path):
    own = {module.split(".")[1] for module in imports(path) if module.startswith("afa.")}
    assert own <= FLOORS[path.parent.name]


@pytest.mark.parametrize("place", WITHOUT_TORCH)
def test_settings_are_checked_without_torch(place):
    path = ROOT / "afa" / place
    for file in path.glob("*.py") if path.is_dir() else [path]:
        assert not {m for m in imports(file) if m.split(".")[0] in ("torch", "torchvision")}, file
