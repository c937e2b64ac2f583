"""``include`` lines of configs: which files they read."""

import socket
import sys
from pathlib import Path

import pytest

from afa.config.hocon import load_settings
from tests.config.config_files import BASE, refused, write

pytestmark = pytest.mark.usefixtures("folder")

NO_URL = "write the path of one file relative to this one; URLs and patterns are not read"
NO_INCLUDE = 'write include "relative/path.hocon", alone on its line and outside all braces'


@pytest.mark.parametrize(
    ("include", "reason"),
    [
        ('include url("http://127.0.0.1:9/x")', NO_INCLUDE),
        ('include package("evil.sub:x.conf")', NO_INCLUDE),
        ('include required(file("near.hocon"))', NO_INCLUDE),
        ('INCLUDE "near.hocon"', NO_INCLUDE),
        ('first_stage { include "near.hocon" }', NO_INCLUDE),
        ('first_stage {\n include "near.hocon"\n}', NO_INCLUDE),
        ('exp_id = include "near.hocon"', NO_INCLUDE),
        ('exp_id = http:// include "near.hocon"', NO_INCLUDE),
        ('exp_id = """x\n"""include "near.hocon"', NO_INCLUDE),
        ('include "http://127.0.0.1:9/x"', NO_URL),
        ('include "file:///etc/passwd"', NO_URL),
        ('include "/etc/passwd"', NO_URL),
        ('include "..\\outside.hocon"', NO_INCLUDE),
        ('include "*.hocon"', NO_URL),
        ('include "../outside.hocon"', "is outside the folder in; copy it there"),
        ('include "link.hocon"', "is outside the folder in; copy it there"),
        ('include "gone.hocon"', 'include "gone.hocon": no such file'),
        ('include "."', "is a folder"),
        ('include "c.hocon"', "circle"),
        ('include "latin.hocon"', "line 2 is not UTF-8"),
    ],
)
def test_an_include_reads_only_files_of_the_config_folder(
    include: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("lr = 0.123\n", "outside.hocon")
    write("lr = 0.123\n", "in/near.hocon")
    Path("in/link.hocon").symlink_to(folder / "outside.hocon")
    Path("in/latin.hocon").write_bytes("a = 1\nb = é".encode("latin-1"))
    write("raise SystemExit('run')", "evil/__init__.py")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(socket, "create_connection", lambda *_args, **_more: pytest.fail("fetched"))
    lines = refused(write(f"{BASE}{include}\n", "in/c.hocon"))
    assert len(lines) == 1
    assert lines[0].startswith(("in/c.hocon:6: ", "in/c.hocon:7: "))
    assert reason in lines[0]
    assert "evil" not in sys.modules


def test_includes_may_climb_within_hocon_config_and_may_meet_again() -> None:
    write(BASE, "hocon_config/shared/base.hocon")
    write('include "base.hocon" # again\nlr = 0.2\n', "hocon_config/shared/more.hocon")
    path = write('include "../shared/base.hocon"\ninclude "../shared/more.hocon"\nlr = 0.3', "hocon_config/AST/c.hocon")
    assert load_settings(path).stages[0].learning_rate == 0.3


def test_includes_end_in_depth_and_size() -> None:
    for number in range(12):
        write(f'include "{number + 1}.hocon"\n', f"{number}.hocon")
    write(BASE, "12.hocon")
    assert refused("0.hocon") == ['8.hocon:1: include "9.hocon": more than 8 includes inside each other']
    write("#" * 2**19, "big.hocon")
    assert refused(write('include "big.hocon"\n' * 2)) == ["c.hocon: larger than 1048576 bytes with its includes"]
