"""Downloads over loopback: resumed where they were cut, checked, and only where asked for."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from afa.data.catalogue import Archive
from afa.errors import DataError
from afa.prepare.download import download

CONTENT = bytes(range(256)) * 4000


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at /file, from where a Range says unless ``ignores_ranges``; at /cut only a half of it."""

    ignores_ranges = False
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self):
        if self.path == "/gone":
            self.send_error(404)
            return
        wanted = self.headers["Range"]
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not self.ignores_ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : len(CONTENT) // 2 if self.path == "/cut" else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    monkeypatch.setattr(Handler, "ranges", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_whole(server, tmp_path):
    path = download(Archive("a.tar", f"{server}/file"), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [item.name for item in path.parent.iterdir()] == ["a.tar"]


def test_a_download_that_was_cut_short_goes_on_where_it_was(server, tmp_path):
    with pytest.raises(DataError, match=r"the same command goes on, or put the file at .*a\.tar"):
        download(Archive("a.tar", f"{server}/cut"), tmp_path)
    half = len(CONTENT) // 2
    assert (tmp_path / "a.tar.part").stat().st_size == half
    assert not (tmp_path / "a.tar").exists()
    assert download(Archive("a.tar", f"{server}/file"), tmp_path).read_bytes() == CONTENT
    assert Handler.ranges == [None, f"bytes={half}-"]


def test_a_server_without_ranges_is_asked_for_all_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "ignores_ranges", True)
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:1000])
    assert download(Archive("a.tar", f"{server}/file"), tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(CONTENT)
    assert download(Archive("a.tar", f"{server}/file"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["{server}/gone", "http://127.0.0.1:1/a", "no address"])
def test_what_cannot_be_fetched_is_one_line(server, url, tmp_path):
    with pytest.raises(DataError, match="cannot be fetched") as raised:
        download(Archive("a.tar", url.format(server=server)), tmp_path)
    assert len(raised.value.lines) == 1
    assert not Path(tmp_path / "a.tar").exists()
