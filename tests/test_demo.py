"""The README's demo, whole: it takes about two minutes."""

import json

import pytest

from afa.command_line import main


@pytest.mark.slow
def test_the_demo_learns_and_says_so(tmp_path, capsys):
    assert main(["hocon_config/demo/afa.hocon", f"outpath={tmp_path}"]) == 0
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    first, second = result["repeats"][0]
    assert (first["method"], first["epochs"], second["method"], second["epochs"]) == ("AST", 18, "ACT", 6)
    # Chance is 10 %; the README's five seeds lie far above this bound.
    assert second["last"]["test_top1"] > 55
    assert str(tmp_path / "demo") in capsys.readouterr().out.splitlines()[-1]
