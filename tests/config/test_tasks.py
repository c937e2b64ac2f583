"""The command line without a config file: which task is meant, and what is wrong with its words."""

import subprocess
import sys

import pytest

from afa.command_line import main


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["lr=0.1"], ["command line: nothing to do; the first word is a CONFIG"]),
        (["mode=predit"], ["command line: mode: unknown value 'predit'; did you mean 'predict'?"]),
        (["mode=train"], ["command line: mode=train needs a CONFIG as the first word"]),
        (["tests/tiny.hocon", "mode=predict"], ["command line: predict takes no CONFIG; leave tests/tiny.hocon out"]),
        (
            ["mode=predict", "inptu=a.jpg", "batch_size=many", "pre_trained_path=gone", "photo.jpg"],
            [
                "command line: inptu: unknown key of predict; did you mean 'input'?",
                "command line: batch_size: expected a whole number, got the string 'many'",
                "command line: photo.jpg: expected key=value",
                "command line: input: missing: an image",
                "command line: pre_trained_path: no checkpoint at gone",
            ],
        ),
        (
            ["mode=predict", "input=gone.jpg", "pre_trained_path=README.md", "batch_size=0"],
            [
                "command line: batch_size: 0 is out of range: at least 1 is right",
                "command line: input: no such image or folder, and a pattern that nothing matches: gone.jpg",
            ],
        ),
    ],
)
def test_wrong_words_are_a_line_each_and_exit_status_2(words, messages, capsys):
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(messages), lines
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(message)


def test_wrong_words_are_found_before_torch_is_imported():
    code = (
        "import sys; from afa.command_line import main; status = main(['mode=predict', 'input=gone']); "
        "sys.exit(0 if status == 2 and 'torch' not in sys.modules else 1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_names_what_results_depend_on(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("AFA 0.1.0, Python 3.")
