"""Files are written completely or not at all; locks exclude other processes; old files are kept."""

import csv
import errno
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest

from afa import files
from afa.errors import AFAError, BusyError
from afa.files import (
    append_bytes,
    claim_folder,
    keep_old,
    locked,
    move_aside,
    read_csv,
    read_json,
    read_text,
    replace_file,
    sha256,
    write_csv,
    write_json,
    write_json_list,
    write_text,
)

WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: write_json(path, ["new"]),
    "csv": lambda path: write_csv(path, ["new"], []),
    "json list": lambda path: write_json_list(path, {"new": 1}, "items", []),
}


@contextmanager
def other_process(statement):
    """Another process inside the context manager ``statement``; it leaves when its input is closed."""
    code = f"from pathlib import Path; from afa.files import *\nwith {statement}: print('ready', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1], **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "file"
    write_text(path, "old")

    def write(temporary):
        temporary.write_text("half of the")
        raise error

    with pytest.raises(type(error)):
        replace_file(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_and_the_old_file_is_intact(tmp_path, monkeypatch, writer):
    path = tmp_path / "file"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(AFAError) as raised:
        WRITERS[writer](path)
    assert raised.value.lines == [f"{path}: cannot be written: No space left on device"]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_path_that_cannot_be_a_file_is_one_line(tmp_path, writer):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "missing/file"):
        with pytest.raises(AFAError) as raised:
            WRITERS[writer](path)
        assert raised.value.lines[0].startswith(f"{path}: cannot be written: ")
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, events = tmp_path / "file", []
    sync, replace = os.fsync, Path.replace

    def recorded_sync(descriptor):
        events.append(Path(f"/dev/fd/{descriptor}").resolve().name)
        sync(descriptor)

    def recorded_replace(source, target):
        events.append("rename")
        return replace(source, target)

    monkeypatch.setattr(files.os, "fsync", recorded_sync)
    monkeypatch.setattr(files.Path, "replace", recorded_replace)
    write_text(path, "new")
    names = ["file.tmp", "rename", tmp_path.name] if sys.platform == "linux" else events
    assert events == names
    assert events[1] == "rename"


def test_what_is_written_is_read(tmp_path):
    strange = os.fsdecode(b"\xff.jpg")  # a file name that is not UTF-8
    write_json(tmp_path / "a.json", {"path": strange, "name": "Käfer"})
    assert read_json(tmp_path / "a.json", dict) == {"path": strange, "name": "Käfer"}
    assert "Käfer" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_csv(tmp_path / "a.csv", ["path", "count"], [[strange, 1], ['"quoted", with a comma', 2]])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "count"], [r"\udcff.jpg", "1"], ['"quoted", with a comma', "2"]]
    assert sha256(tmp_path / "a.csv") == hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()


@pytest.mark.parametrize("content", ['{"a": ', "[1]", '{"b": 1}', "\xff", "[" * 100_000])
def test_a_modified_json_file_is_one_line(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(AFAError, match="modified or incomplete; remove it") as raised:
        read_json(path, lambda values: values["a"])
    assert len(raised.value.lines) == 1


def test_a_pipe_is_not_waited_for(tmp_path):
    """As any file in the folder of a run, which another program may have made."""
    path = tmp_path / "x.json"
    os.mkfifo(path)
    with pytest.raises(AFAError, match="modified or incomplete"):
        read_json(path, dict)
    with pytest.raises(AFAError, match="cannot be written: not a regular file"):
        append_bytes(path, b"x")
    for read in (read_csv, read_text, sha256, lambda pipe: locked(pipe).__enter__()):
        with pytest.raises(OSError, match="not a regular file"):
            read(path)


def test_a_lock_excludes_other_processes_until_they_die(tmp_path):
    path = tmp_path / "lock"
    waits = []
    with other_process(f"locked(Path({str(path)!r}))") as process:
        with pytest.raises(BlockingIOError), locked(path):
            pass

        def wait():
            waits.append(process.poll())
            process.kill()

        with locked(path, wait=wait):
            assert waits
        with locked(path):
            pass


def test_an_error_while_waiting_ends_the_wait(tmp_path):
    def stop():
        raise KeyboardInterrupt

    path = tmp_path / "lock"
    with other_process(f"locked(Path({str(path)!r}))"), pytest.raises(KeyboardInterrupt), locked(path, wait=stop):
        pass


def test_the_folder_of_a_run_at_work_can_be_neither_claimed_nor_moved(tmp_path):
    folder = tmp_path / "runs/run"
    with other_process(f"claim_folder(Path({str(folder)!r}))"):
        for function in (claim_folder, move_aside):
            with pytest.raises(BusyError, match="another run is using this folder"):
                function(folder)
    claim_folder(folder).close()
    with claim_folder(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AFAError, match=r"file/run: cannot be written: Not a directory; choose another outpath="):
        claim_folder(tmp_path / "file/run")


def test_old_files_and_folders_are_numbered(tmp_path):
    assert keep_old(tmp_path / "table.csv") is None
    for number in (1, 2):
        (tmp_path / "table.csv").write_text(str(number))
        assert keep_old(tmp_path / "table.csv") == tmp_path / f"table.old-{number}.csv"
        (tmp_path / "run.v1").mkdir()
        assert move_aside(tmp_path / "run.v1") == tmp_path / f"run.v1.old-{number}"
    assert (tmp_path / "table.old-2.csv").read_text() == "2"
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.old-1.csv",
        "table.old-2.csv",
        "run.v1.old-1",
        "run.v1.old-2",
    }


def test_a_file_that_cannot_be_renamed_is_one_line(tmp_path, monkeypatch):
    def refuse(path, target):
        raise OSError(errno.EACCES, "Permission denied")

    (tmp_path / "table.csv").write_text("")
    monkeypatch.setattr(files.Path, "rename", refuse)
    with pytest.raises(AFAError, match=r"table\.csv: cannot be renamed to table\.old-1\.csv: Permission denied"):
        keep_old(tmp_path / "table.csv")


def test_no_cell_of_a_table_is_a_formula_and_the_same_names_are_read(tmp_path):
    names = ["=1+1", "+cmd", "-x", "@SUM(1)", "\tx", "'", "'=x", "-1", "+1e-3", "a\nb", "", "x=1"]
    write_csv(tmp_path / "a.csv", ["name", "number"], [[name, -0.5] for name in names])
    with (tmp_path / "a.csv").open(newline="") as file:
        written = [row["name"] for row in csv.DictReader(file)]
    assert written == ["'=1+1", "'+cmd", "'-x", "'@SUM(1)", "'\tx", "''", "''=x", "-1", "+1e-3", "a\nb", "", "x=1"]
    assert read_csv(tmp_path / "a.csv") == [{"name": name, "number": "-0.5"} for name in names]
    (tmp_path / "a.csv").write_text("name,number\n1\n")
    with pytest.raises(ValueError, match="argument"):
        read_csv(tmp_path / "a.csv")


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path):
    """Otherwise two processes hold it: one that waited on the removed file, and one that created the file again."""
    path = tmp_path / "lock"
    with other_process(f"locked(Path({str(path)!r}), remove=True)") as process:

        def wait():
            path.unlink(missing_ok=True)
            process.kill()

        with locked(path, wait=wait, remove=True):
            assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda path, rows: write_csv(path, ["a", "b"], rows),
        lambda path, rows: write_json_list(path, {"n": 1}, "items", rows),
    ],
    ids=["csv", "json"],
)
def test_the_memory_of_a_writer_does_not_grow_with_the_number_of_rows(tmp_path, write):
    tracemalloc.start()
    write(tmp_path / "file", ([f"row {number}", "x" * 100] for number in range(20_000)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "file").stat().st_size > 2_000_000
    assert peak < 200_000


@pytest.mark.parametrize("items", [[], [{"a": 1}], [{"a": "\u00e9"}, {"a": None}]])
def test_a_json_list_is_valid_json(tmp_path, items):
    write_json_list(tmp_path / "file", {"x": [1, {"y": 2}], "é": []}, "items", items)
    content = json.loads((tmp_path / "file").read_text(encoding="utf-8"))
    assert content == {"x": [1, {"y": 2}], "é": [], "items": items}
