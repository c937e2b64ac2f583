"""The wheel: installed in a new environment, it works from any folder; without its packages it says what to install."""

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_in(folder: Path, *command: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    done = run_in(folder, *build)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("afa-*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """Interpreter of a new environment with the wheel, which finds the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    done = run_in(folder, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    next(folder.glob("lib/python*/site-packages")).joinpath("other.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_the_wheel_contains_configs_demo_data_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.run(["git", "ls-files", "demo", "hocon_config"], cwd=ROOT, capture_output=True, text=True)
    expected = tracked.stdout.split() or ["demo/README.md", "hocon_config/demo/afa.hocon"]  # without git
    assert {f"afa/{name}" for name in expected} <= set(names)
    assert {"afa/py.typed", "afa/report/page.html.jinja", "afa/grid/published.json"} <= set(names)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"afa"}


def test_the_installed_command_runs_the_demo_from_another_folder(python, data_dir, tmp_path):
    assert run_in(tmp_path, python, "-c", "import afa; print(afa.__file__)").stdout.startswith(str(python.parents[1]))
    command = python.with_name("afa")
    assert run_in(tmp_path, command, "--version").stdout.startswith("AFA 0.2.0, Python ")
    error = run_in(tmp_path, command, "hocon_config/demo/l2.hocon", "target_dataset=none").stderr
    assert f"no folder none in {python.parents[1]}/" in error
    quick = ["max_iter=1", "batch_size=100", "image_size=32", "gpu_id=cpu", "report=false"]
    done = run_in(tmp_path, command, "demo", *quick, f"target_data_dir={data_dir}", "target_dataset=tiny")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    run = tmp_path / "runs/demo"
    # The saved settings name the shipped weights, so they can be run from any folder.
    assert f'source_weights = "{python.parents[1]}/' in (run / "settings.log").read_text()
    assert json.loads((run / "result.json").read_text())["environment"]["command"].startswith("afa demo ")


def test_without_its_packages_the_program_says_what_to_install(tmp_path):
    for command in (["-I", "main.py", "demo"], ["-m", "afa", "help"]):
        done = run_in(ROOT, sys.executable, "-S", *command)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "is not installed for" in done.stderr
        assert f"-m pip install {ROOT}" in done.stderr


def test_every_dependency_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {line.partition("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    extras = [name for names in project["optional-dependencies"].values() for name in names if "[" not in name]
    for requirement in [*project["dependencies"], *extras]:
        assert requirement.partition(">=")[0].lower() in locked, requirement
