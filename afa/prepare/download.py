"""Files from their owners' sites, only where the user asked for them; a download cut short goes on where it was."""

import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from afa.data.catalogue import Archive
from afa.errors import DataError, one_line
from afa.results.journal import Progress

_BLOCK = 2**18
_SECONDS = 60  # without a byte


def download(archive: Archive, folder: Path) -> Path:
    """Fetch a file into ``folder``; until it is whole its name ends in ``.part``.

    Raises:
        DataError: it cannot be fetched; says where to put it by hand.
    """
    path = folder / archive.name
    part = path.with_name(f"{path.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(archive, part)
        part.rename(path)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise DataError(
            f"{archive.url}: cannot be fetched ({one_line(error)}); the same command goes on, or put the file at {path}"
        ) from None
    return path


def _fetch(archive: Archive, part: Path) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing comes after what is there: it is whole
            return
        raise
    with answer:
        goes_on = answer.status == 206
        done = done if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else archive.size
        with (
            part.open("ab" if goes_on else "wb") as file,
            Progress(f"fetching {archive.name}", total, done, unit="bytes") as bar,
        ):
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if length and part.stat().st_size != total:
        raise OSError(f"ended after {part.stat().st_size:,} of {total:,} bytes")
