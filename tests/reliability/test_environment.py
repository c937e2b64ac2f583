"""Terminals, disks, homes and names that are unusual: a right result or one line."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torchvision.models import resnet18

from afa import files
from afa.command_line import main
from afa.config.hocon import load_settings
from afa.errors import CheckpointError, ConfigError
from afa.networks.build import load_backbone
from afa.networks.weights import load_file_safely, state_dict_of
from tests.reliability.runs import CONFIGS, ROOT, commands, one_line


def program(words: list[str], before: str = "true", after: str = "", **environment: str) -> subprocess.CompletedProcess:
    """``python main.py`` in a shell; ``before`` limits the process, ``after`` redirects its output."""
    command = f'{before}; exec "$0" main.py "$@" {after}'
    variables = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"} | environment
    variables["PYTHONDONTWRITEBYTECODE"] = "1"  # a limit of the file size would leave a truncated .pyc file
    return subprocess.run(
        ["sh", "-c", command, sys.executable, *words],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("after", [">&-", "2>&-", ">&- 2>&-", ">/dev/full"])
def test_output_that_cannot_be_written_does_not_stop_a_run(words, tmp_path, after):
    done = program([*commands(words, tmp_path)["one"], "max_iter=6", "report=false"], after=after)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run/result.json").exists()


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """Also in a program that this one starts. What a process prints is not written to a pipe or a checkpoint."""
    child = "import os; number = os.open(os.devnull, 0); open(os.environ['ANSWER'], 'w').write(str(number))"
    code = (
        "import os, subprocess, sys, afa.__main__ as p; p.main(); subprocess.run([sys.executable, '-c', sys.argv[2]])"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" lr "$2" <&- >&- 2>&-', sys.executable, code, child]
    environment = {**os.environ, "ANSWER": str(tmp_path / "answer")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=100)
    assert (tmp_path / "answer").read_text() == "3"


def test_names_that_the_terminal_cannot_show_are_escaped(words, tmp_path):
    options = ["max_iter=6", "report=false", "exp_id=\N{SNOWMAN}"]
    done = program([*commands(words, tmp_path)["one"], *options], PYTHONIOENCODING="latin-1", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u2603" in done.stdout
    assert (tmp_path / "\N{SNOWMAN}/result.json").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x"])
def test_a_run_stays_in_outpath(words, tmp_path, name):
    with pytest.raises(ConfigError, match="is outside outpath"):
        load_settings(CONFIGS["one"], [*words, f"outpath={tmp_path}", f"exp_id={name}"])


def test_a_tilde_is_the_home_folder(words, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(CONFIGS["one"], [*words, "outpath=~/runs"]).run.outpath == f"{tmp_path}/runs"
    with pytest.raises(ConfigError, match="no home folder is known"):
        load_settings(CONFIGS["one"], [*words, "outpath=~nobody_of_this_name/runs"])


def test_a_disk_cache_without_a_home_folder_is_one_line(words, tmp_path, monkeypatch, capsys):
    def fail(path: Path) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    assert main([*commands(words, tmp_path)["one"], "cache=disk"]) == 2
    error = one_line(capsys.readouterr().err)
    assert error.startswith("cache_dir: ~/.cache/afa/images: no home folder is known")


def test_a_file_system_without_locks_is_one_line(words, tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "lockf", refuse)
    assert main(commands(words, tmp_path)["one"]) == 1
    assert "cannot lock files (No locks available)" in one_line(capsys.readouterr().err)


def test_a_pipe_is_not_a_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_file_safely(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model_state_dict": state},
        lambda state: {"net": state},
        lambda state: {f"module.module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.model.{name}": value for name, value in state.items()}},
    ],
)
def test_wrapped_weights_are_read(wrap, tmp_path):
    network = resnet18()
    load_backbone(network, state_dict_of(wrap(network.state_dict()), tmp_path), tmp_path)


def test_names_with_another_prefix_are_named(tmp_path):
    network = resnet18()
    state = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"all its names begin with encoder\.; remove this prefix"):
        load_backbone(network, state, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'a0 = "xxxxxxxxxx"\n' + "".join(f"a{i} = ${{a{i - 1}}}${{a{i - 1}}}\n" for i in range(1, 34)),
            "has more than",
        ),
        ("x = [" + "1," * 10_000 + "1]", "more than 10000 words"),
        (".".join("k" * 900) + " = 1", "more than 32 names"),
    ],
    ids=["substitutions", "list", "key"],
)
def test_a_config_that_would_fill_the_memory_is_one_line(tmp_path, text, message):
    (tmp_path / "x.hocon").write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_settings(tmp_path / "x.hocon")
    assert len(raised.value.lines) == 1


def test_other_spellings_are_answered_with_ours(words, tmp_path, capsys):
    answers = {
        "--lr": "write lr=<value>",
        "device=cpu": "'gpu_id'",
        "learning_rate=1": "'lr'",
        "quiet=True": "write true",
    }
    for argument, wanted in answers.items():
        assert main([CONFIGS["one"], *words, argument]) == 2
        assert wanted in one_line(capsys.readouterr().err)
    (tmp_path / "utf16.hocon").write_text("lr = 1", encoding="utf-16")
    assert main([str(tmp_path / "utf16.hocon")]) == 2
    assert "did you mean" not in one_line(capsys.readouterr().err)
    assert main(["mode=predict", "pre_trained_path=x.pth", "input=a", "input=b"]) == 2
    assert "input: set twice" in capsys.readouterr().err


def test_a_file_whose_name_looks_like_a_setting_is_a_config(words, tmp_path):
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    (folder / "settings.log").write_text("reg_type = 3")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["lr=0.1/settings.log"]) == 2


def test_a_batch_larger_than_the_data_is_explained(words, tmp_path, capsys):
    assert main([*commands(words, tmp_path)["one"], "max_iter=1", "batch_size=96", "report=false"]) == 0
    assert "AST: max_iter = 1 steps of batch_size = 96 images are 4 epochs" in capsys.readouterr().out


def test_layers_that_do_not_exist_in_the_graph_are_one_line(words, tmp_path, capsys):
    assert main([*commands(words, tmp_path)["one"], 'aligned_layers=["features.0.2"]']) == 2
    assert "aligned_layers: " in one_line(capsys.readouterr().err)


def test_a_finished_run_is_read_without_writing(words, undisturbed, tmp_path, capsys):
    outpath = shutil.copytree(undisturbed["one"].parent, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in outpath.rglob("*")}
    assert main(commands(words, outpath)["one"]) == 0
    assert "already finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in outpath.rglob("*")} == before


@pytest.mark.parametrize("kind", ["torch_export", "onnx", "safetensors"])
def test_an_export_that_does_not_fit_on_the_disk_is_one_line(undisturbed, tmp_path, kind):
    pytest.importorskip("onnxscript" if kind == "onnx" else "torch")
    words = ["mode=export", f"pre_trained_path={undisturbed['one']}", f"format={kind}", f"output={tmp_path / 'out'}"]
    done = program(words, before="ulimit -f 1000")
    assert done.returncode == 1
    assert "cannot be written: File too large" in one_line(done.stderr)
    assert list((tmp_path / "out").iterdir()) == []


def test_images_that_do_not_fit_on_the_disk_are_one_line(undisturbed, tmp_path):
    words = ["mode=visualize", f"pre_trained_path={undisturbed['one']}", f"output={tmp_path / 'out'}", "gpu_id=cpu"]
    done = program(words, before="ulimit -f 20")
    assert done.returncode == 1
    assert "cannot be written: File too large" in one_line(done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the address space")
def test_too_little_memory_is_one_line(words, tmp_path):
    done = program([*commands(words, tmp_path)["one"], "image_size=224", "batch_size=24"], before="ulimit -v 4000000")
    assert done.returncode in (0, 1)
    assert done.returncode == 0 or "memory" in one_line(done.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_small_shared_memory_is_one_line(words, tmp_path, dry_run):
    options = [
        f"dry_run={dry_run}",
        "num_workers=2",
        "cache=none",
        "image_size=299",
        "batch_size=12",
        "max_iter=2",
        "report=false",
    ]
    command = [sys.executable, "main.py", *commands(words, tmp_path)["one"], *options]
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no mount allowed here")
    assert done.returncode == 1
    error = one_line(done.stderr)
    assert all(text in error for text in ("/dev/shm", "num_workers=0", "--shm-size"))
