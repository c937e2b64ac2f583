"""Which files are images, what is counted instead, and copies of images."""

import os
from pathlib import Path

import pytest

from afa.data.walk import Walk, find_copies
from tests.data.pictures import noise


def save(folder: Path, *names: str, kind: str = "JPEG") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise(8, 8).save(folder / name, kind)


def test_an_image_is_recognised_by_its_extension_or_its_content(tmp_path: Path) -> None:
    save(tmp_path, "a.jfif", "b", "c.png ", "d.heic", "e.PNG", "f.txt")
    save(tmp_path, "g.pgm", kind="PPM")
    (tmp_path / "broken.jpg").write_text("not an image, which is reported when it is read")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "real.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "P3.txt").write_text("P3 is not an image here")
    os.mkfifo(tmp_path / "pipe.jpg")
    walk = Walk()
    names = [path.name for path in walk.find_images(tmp_path)]
    assert names == ["a.jfif", "b", "broken.jpg", "c.png ", "d.heic", "e.PNG", "f.txt", "g.pgm", "link.jpg"]
    assert walk.ignored == {".heic": 1, ".txt": 1, "special (a pipe or a device)": 1}


@pytest.mark.parametrize("folder", ["@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX"])
def test_files_of_systems_and_copies_are_counted_not_used(tmp_path: Path, folder: str) -> None:
    save(tmp_path, "1.jpg", "2.jpg")
    save(tmp_path / folder / "1.jpg", "SYNOPHOTO_THUMB_M.png", "SYNOPHOTO_THUMB_XL.jpg")
    save(tmp_path / ".ipynb_checkpoints", "1-checkpoint.jpg")
    save(tmp_path, ".DS_Store", "._1.jpg", "1.jpg~", "1.jpg_original", "2.jpg.part")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    walk = Walk()
    assert [path.name for path in walk.find_images(tmp_path)] == ["1.jpg", "2.jpg"]
    (line,) = walk.describe(tmp_path)
    assert line.startswith(f"{tmp_path}: 9 files ignored: 2 in {folder} (of ")
    for kind in (
        "1 in .ipynb_checkpoints",
        "1 .DS_Store",
        "1 hidden",
        "1 .db",
        "1 .jpg~",
        "1 .jpg_original",
        "1 .part",
    ):
        assert kind in line


def test_copies_are_found_by_their_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, first in ((one, 0), (other, 3)):
        folder.mkdir()
        for index in range(first, first + 5):
            noise(60, 60, seed=index).save(folder / f"{index}.bmp")  # files of the same size
    content = bytearray((one / "0.bmp").read_bytes())
    content[100] ^= 1  # the same size and the same end
    (other / "changed.bmp").write_bytes(content)
    expected = [(one / "3.bmp", other / "3.bmp"), (one / "4.bmp", other / "4.bmp")]
    assert find_copies(sorted(one.iterdir()), sorted(other.iterdir())) == expected
    assert find_copies([], []) == []
