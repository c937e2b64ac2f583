"""Imports only go down the layers, settings are checked without torch, and no two things share a name."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "afa").rglob("*.py") if path.name != "__init__.py")

# Low to high. A module imports its own package and lower layers; packages of one layer do not import each other.
LAYERS = (
    ("errors", "fields"),
    ("files",),
    ("method",),
    ("networks", "data", "results"),
    ("config",),
    ("preparation", "machine"),
    ("training",),
    ("commands",),
    ("inference",),
    ("report",),
    ("entry",),
    ("grid",),
    ("command_line",),
    ("__main__",),
)
WITHOUT_TORCH = (
    "errors.py",
    "fields.py",
    "files.py",
    "command_line.py",
    "config/*.py",
    "method/catalogue.py",
    "networks/backbones.py",
    "data/folders.py",
    "data/walk.py",
    "data/published.py",
    "results/run_folder.py",
    "results/outcomes.py",
    "results/journal.py",
    "preparation/*.py",
    "machine/launch.py",
    "machine/signals.py",
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """Modules that a file imports, at its top and within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_only_go_down(path):
    own = module_name(path).split(".")[1]
    (layer,) = (number for number, names in enumerate(LAYERS) if own in names)
    allowed = {own, *(name for names in LAYERS[:layer] for name in names)}
    assert {module.split(".")[1] for module in imports(path) if module.startswith("afa.")} <= allowed


def test_settings_are_checked_without_torch():
    paths = [path for pattern in WITHOUT_TORCH for path in sorted((ROOT / "afa").glob(pattern))]
    assert len(paths) > len(WITHOUT_TORCH)
    script = "import importlib, sys\n" + "".join(
        f"importlib.import_module('{module_name(path)}')\nassert 'torch' not in sys.modules, '{module_name(path)}'\n"
        for path in paths
        if path.name != "__init__.py"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_no_two_modules_have_the_same_stem():
    assert [stem for stem, count in Counter(path.stem for path in FILES).items() if count > 1] == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_function_has_the_name_of_a_module_or_package(path):
    modules = {other.stem for other in FILES} | {other.parent.name for other in FILES}
    functions = {  # a property is not called, so it cannot be confused with a module
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not {ast.unparse(decorator) for decorator in node.decorator_list} & {"property", "cached_property"}
    }
    assert functions & modules == set()
