"""Damaged, incomplete and unwritable files: a run resumes from what is intact, or stops with one line."""

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from afa.command_line import main
from afa.training.checkpoint import load_checkpoint, save_checkpoint
from tests.reliability.runs import commands, one_line
from tests.same import assert_the_same


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [tear, flip_a_bit, Path.unlink])
def test_the_previous_checkpoint_replaces_a_damaged_one(words, undisturbed, cut, capsys, damage):
    damage(cut / "run/check_point/last.pth")
    assert main([*commands(words, cut)["one"], "checkpoint_every=2 steps"]) == 0
    output = capsys.readouterr().out
    (message,) = [line for line in output.splitlines() if "resuming from previous.pth" in line]
    assert str(cut / "run/check_point/last.pth") in message
    assert "resuming after epoch 1 of 2 and step 2 of the next" in output
    assert_the_same(cut / "run", undisturbed["one"])


def test_killed_after_damage_the_intact_checkpoint_is_kept(words, undisturbed, cut, monkeypatch):
    """The next save must not keep the damaged file in place of the intact one. Leftovers do no harm."""
    tear(cut / "run/check_point/last.pth")
    for name in ("last.pth", "previous.pth", "best.pth", "SHA256SUMS"):
        (cut / "run/check_point" / f"{name}.tmp").write_bytes(b"half a")
    for name in ("log.txt", "settings.log", "stage.json", "result.json"):
        (cut / "run" / f"{name}.tmp").write_bytes(b"half a")

    replace = Path.replace

    def die_before_last(path: Path, target: Path) -> Path:
        if Path(target).name == "last.pth":  # after the previous file was kept
            raise KeyboardInterrupt
        return replace(path, target)

    command = [*commands(words, cut)["one"], "checkpoint_every=1 steps"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die_before_last)
        assert main(command) == 130
    assert load_checkpoint(cut / "run/check_point/previous.pth").training["step"] == 2
    assert main(command) == 0
    assert_the_same(cut / "run", undisturbed["one"])


def test_two_damaged_checkpoints_are_one_line(words, cut, capsys):
    for name in ("last.pth", "previous.pth"):
        tear(cut / "run/check_point" / name)
    assert main(commands(words, cut)["one"]) == 1
    error = one_line(capsys.readouterr().err)
    for text in ("last.pth", "previous.pth", "overwrite=true"):
        assert text in error


SYSTEM_CALLS_OF_A_SAVE = 12


@pytest.mark.parametrize("moment", range(SYSTEM_CALLS_OF_A_SAVE + 1))
def test_killed_before_any_system_call_of_a_save_both_files_are_intact(words, cut, monkeypatch, moment):
    calls = 0

    def counted(call: Callable) -> Callable:
        def count(*arguments: object, **options: object) -> object:
            nonlocal calls
            if calls == moment:
                raise KeyboardInterrupt
            calls += 1
            return call(*arguments, **options)

        return count

    last, previous = (cut / "run/check_point" / name for name in ("last.pth", "previous.pth"))
    old = load_checkpoint(last)
    with monkeypatch.context() as patch:
        for name in ("fsync", "link", "replace", "unlink"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(KeyboardInterrupt):
            save_checkpoint(replace(old, top1=7.0), last, keep=previous)
    assert calls == min(moment, SYSTEM_CALLS_OF_A_SAVE)
    assert load_checkpoint(last).top1 in (old.top1, 7)
    assert load_checkpoint(previous).top1 == old.top1
    save_checkpoint(replace(old, top1=8.0), last, keep=previous)
    assert load_checkpoint(last).top1 == 8
    assert load_checkpoint(previous).top1 in (old.top1, 7)


def test_without_hard_links_the_previous_checkpoint_is_kept_too(words, cut, monkeypatch):
    last, previous = (cut / "run/check_point" / name for name in ("last.pth", "previous.pth"))
    old = load_checkpoint(last)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    save_checkpoint(replace(old, top1=7.0), last, keep=previous)
    assert (load_checkpoint(last).top1, load_checkpoint(previous).top1) == (7, old.top1)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files end at 12 MB: enough for the first checkpoint, not for one with an optimiser."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_completely(words, cut, small_files, undisturbed, capsys):
    command = [*commands(words, cut)["one"], "checkpoint_every=1 steps"]
    last = cut / "run/check_point/last.pth"
    before = last.read_bytes()
    assert main(command) == 1
    error = one_line(capsys.readouterr().err)
    assert error.startswith(f"{last}: cannot be written")
    assert "the previous file is intact" in error
    assert last.read_bytes() == before
    assert not list(last.parent.glob("*.tmp"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert main(command) == 0
    assert_the_same(cut / "run", undisturbed["one"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("megabytes", [8, 24])
def test_a_disk_that_fills_up(words, undisturbed, tmp_path, capsys, megabytes):
    """A small disk of its own: full at the first checkpoint or at the second; then made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no mount allowed here")
    try:
        command = [*commands(words, disk)["one"], "checkpoint_every=4 steps"]
        assert main(command) == 1
        assert "check_point/last.pth: cannot be written" in one_line(capsys.readouterr().err)
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        assert main(command) == 0
        assert_the_same(disk / "run", undisturbed["one"])
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_result_that_cannot_be_written_is_one_line(words, cut, capsys):
    (cut / "run/predictions.csv").mkdir()
    assert main(commands(words, cut)["one"]) == 1
    error = one_line(capsys.readouterr().err)
    assert error == f"{cut / 'run/predictions.csv'}: cannot be written: Is a directory"
