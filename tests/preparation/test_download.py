"""Downloads over loopback: interrupted ones are resumed, and complete files checked."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from afa.data.published import Archive
from afa.errors import DataError
from afa.preparation.archives import download

CONTENT = bytes(range(256)) * 4000


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at /file, from the start of a Range unless ``ignores_ranges``; at /cut only one half of it."""

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


def test_a_complete_file_is_downloaded(server, tmp_path):
    path = download(Archive("a.tar", f"{server}/file"), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [item.name for item in path.parent.iterdir()] == ["a.tar"]


def test_an_interrupted_download_is_resumed(server, tmp_path):
    with pytest.raises(DataError, match=r"repeat the command to resume it, or save the file as .*a\.tar"):
        download(Archive("a.tar", f"{server}/cut"), tmp_path)
    half = len(CONTENT) // 2
    assert (tmp_path / "a.tar.part").stat().st_size == half
    assert not (tmp_path / "a.tar").exists()
    assert download(Archive("a.tar", f"{server}/file"), tmp_path).read_bytes() == CONTENT
    assert Handler.ranges == [None, f"bytes={half}-"]


def test_from_a_server_without_ranges_the_complete_file_is_downloaded_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "ignores_ranges", True)
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:1000])
    assert download(Archive("a.tar", f"{server}/file"), tmp_path).read_bytes() == CONTENT


def test_a_partial_file_that_is_complete_is_used(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(CONTENT)
    assert download(Archive("a.tar", f"{server}/file"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["{server}/gone", "http://127.0.0.1:1/a", "no address"])
def test_a_failed_download_is_one_line(server, url, tmp_path):
    with pytest.raises(DataError, match="the download failed") as raised:
        download(Archive("a.tar", url.format(server=server)), tmp_path)
    assert len(raised.value.lines) == 1
    assert not Path(tmp_path / "a.tar").exists()
