"""docs/your-own-data.md: every command of the page works as written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/your-own-data.md").read_text(encoding="utf-8")


def test_the_tables_of_keys_are_up_to_date():
    sys.path.insert(0, str(ROOT / "docs"))
    from config_table import task_tables

    assert task_tables() in PAGE, "paste the output of: python docs/config_table.py"


@pytest.mark.slow
def test_every_command_of_the_page_works(tmp_path):
    for name in ("main.py", "afa", "demo", "examples", "hocon_config"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = {}
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        for command in block.splitlines():
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            output[command] = done.stdout
    (help_command,) = (command for command in output if "does_it_help" in command)
    sentence = output[help_command].splitlines()[-1]
    assert sentence == (tmp_path / "runs/does_it_help/does_it_help.md").read_text().splitlines()[2]
    assert re.search("use it.$|as good as AFA|better than AFA by|3 seeds are not sufficient: ", sentence)
    run = tmp_path / "runs/pictures"
    assert (run / "report.html").stat().st_size
    assert list((tmp_path / "visualized").rglob("*.png"))
    predictions = json.loads((tmp_path / "predictions/predictions.json").read_text())
    assert len(predictions["images"]) == 20
    assert {path.name for path in (tmp_path / "exported").iterdir()} >= {"model.safetensors", "model.pt2", "README.md"}
    assert "channel attention is highest" in list(output.values())[-1]
    assert {path.name for path in tmp_path.iterdir() if not path.is_symlink()} == {
        "data",
        "exported",
        "pictures",
        "predictions",
        "runs",
        "visualized",
    }
