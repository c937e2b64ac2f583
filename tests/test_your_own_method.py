"""The file, the line and the command of docs/your-own-method.md work as printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = "METHODS: dict[str, Method] = {\n"


def test_the_method_of_the_page_trains(words, tmp_path):
    page = (ROOT / "docs/your-own-method.md").read_text(encoding="utf-8")
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    command = re.search(r"^python (main\.py .*)$", page, re.MULTILINE)[1].split()
    name = re.search(r"The file, `(afa/method/\w+\.py)`", page)[1]
    shutil.copytree(ROOT / "afa", tmp_path / "afa", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "hocon_config", tmp_path / "hocon_config")
    shutil.copy(ROOT / "main.py", tmp_path)
    assert not (tmp_path / name).exists()
    (tmp_path / name).write_text(file)
    catalogue = tmp_path / "afa/method/catalogue.py"
    assert TABLE in catalogue.read_text()
    catalogue.write_text(catalogue.read_text().replace(TABLE, TABLE + line))
    ended = subprocess.run(
        [sys.executable, *command, *words, "max_iter=2", "batch_size=6"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    row = (tmp_path / "runs/cosine/log.txt").read_text().splitlines()[1].split("\t")
    assert 0 < float(row[3]) < 2 * 4  # 1 - cos, of four layers
