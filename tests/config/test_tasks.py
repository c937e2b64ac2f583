"""The command line without a config file: the task that it selects, and the messages about wrong arguments."""

import subprocess
import sys

import pytest

import afa
from afa.command_line import main


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["lr=0.1"], ["command line: nothing to do; name a CONFIG first, or use one of prepare="]),
        (["mode=predit"], ["command line: mode: unknown value 'predit'; did you mean 'predict'?"]),
        (["mode=train"], ["command line: mode=train needs a CONFIG as the first argument"]),
        (["tests/tiny.hocon", "mode=predict"], ["command line: predict takes no CONFIG; remove tests/tiny.hocon"]),
        (
            ["mode=predict", "inptu=a.jpg", "batch_size=many", "pre_trained_path=gone", "photo.jpg"],
            [
                "command line: photo.jpg: expected key=value, for example batch_size=32",
                "command line: inptu: unknown key of predict; did you mean 'input'?",
                "command line: batch_size: expected an integer, got the string 'many'",
                "command line: input: missing: an image",
                "command line: pre_trained_path: no checkpoint at gone",
            ],
        ),
        (
            ["mode=predict", "input=1e5", "pre_trained_path=2024", "classes_file=true"],
            [
                "command line: pre_trained_path: no checkpoint at 2024 or runs/2024",
                "command line: classes_file: no such file: true",
                "command line: input: no such image or folder, and no file matches it as a pattern: 1e5",
            ],
        ),
        (
            ["mode=predict", "input=gone.jpg", "pre_trained_path=README.md", "batch_size=0"],
            [
                "command line: batch_size: 0 is out of range; expected at least 1",
                "command line: input: no such image or folder, and no file matches it as a pattern: gone.jpg",
            ],
        ),
    ],
)
def test_wrong_arguments_are_a_line_each_and_exit_status_2(arguments, messages, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(messages), lines
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(message)


def test_wrong_arguments_are_found_before_torch_is_imported():
    code = (
        "import sys; from afa.command_line import main; status = main(['mode=predict', 'input=gone']); "
        "sys.exit(0 if status == 2 and 'torch' not in sys.modules else 1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_names_what_results_depend_on(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"AFA {afa.__version__}, Python 3.")
