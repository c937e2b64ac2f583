"""From archives to folders: the published split, no image lost, no file outside, complete or not at all."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import afa
from afa.command_line import main
from afa.data.folders import scan_dataset
from afa.data.images import read_image
from afa.data.published import PUBLISHED, Archive
from afa.errors import DataError
from afa.preparation.archives import check_archive, unpack
from afa.preparation.preparing import prepare
from afa.preparation.readers import READERS
from tests.preparation.archives import MAKERS, groceries, picture, write_tar, write_zip

HOLD = """
import sys, time
from pathlib import Path
from afa.files import locked
with locked(Path(sys.argv[1])):
    print("x", end="", flush=True)
    time.sleep(60)
"""
EXPECTED = {
    "stanford_dogs": ("Stanford_Dogs", 4, 2),
    "cub_200_2011": ("CUB-200-2011", 4, 2),
    "mit_indoor_67": ("MIT_Indoors_67", 3, 2),
    "caltech_256": ("Caltech_256-10", 6, 4),
    "food_101": ("Food-101", 4, 2),
    "grocery_store": ("Grocery_Store", 66, 8),
}


@pytest.fixture(autouse=True)
def without_digests(monkeypatch):
    """The miniature archives do not have the published sizes and digests."""
    for name, published in PUBLISHED.items():
        archives = tuple(replace(archive, digest="", size=0) for archive in published.archives)
        monkeypatch.setitem(PUBLISHED, name, replace(published, archives=archives))


@pytest.fixture
def owner(tmp_path) -> Path:
    """Folder of the downloaded archives."""
    (tmp_path / "owner").mkdir()
    return tmp_path / "owner"


@pytest.fixture
def unpacked(tmp_path) -> Path:
    """Folder to unpack into."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def words(dataset: str, tmp_path: Path) -> list[str]:
    extra = ["images_per_class=10"] if dataset == "caltech_256" else []
    return [f"prepare={dataset}", f"archive={tmp_path / 'owner'}", f"target_data_dir={tmp_path / 'data'}", *extra]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_data_set_has_a_reader_and_a_test():
    assert set(READERS) == set(PUBLISHED) == set(MAKERS) == set(EXPECTED)


def test_the_public_name_stays_the_function():
    """A subpackage of the same name would replace it when it is first imported."""
    for _ in range(2):
        assert afa.prepare is prepare


@pytest.mark.parametrize("dataset", list(MAKERS))
def test_the_published_split_of_each_data_set(owner, dataset, tmp_path, capsys):
    MAKERS[dataset](owner)
    before = tree(owner)
    assert main(words(dataset, tmp_path)) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    name, train_count, test_count = EXPECTED[dataset]
    folder = tmp_path / "data" / name
    train, test = scan_dataset(folder)
    assert (len(train), len(test)) == (train_count, test_count)
    for path in (*train.paths, *test.paths):
        read_image(path)
    assert f"{PUBLISHED[dataset].counted_in} has" in out  # a miniature never has the counts
    assert f"target_data_dir={tmp_path / 'data'} target_dataset={name}" in out
    assert tree(owner) == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name]
    made = tree(folder)
    assert main(words(dataset, tmp_path)) == 0  # again: nothing to do
    assert tree(folder) == made


def test_strays_of_caltech_are_counted_and_skipped(owner, tmp_path, capsys):
    MAKERS["caltech_256"](owner)
    assert main(words("caltech_256", tmp_path)) == 0
    assert "skipped 3 files in the archive that do not belong to the data set" in capsys.readouterr().out
    train, test = scan_dataset(tmp_path / "data/Caltech_256-10")
    assert [path.stem for path in train.paths] == [f"{c}_{i}" for c in ("001", "257") for i in ("0001", "0002", "0010")]
    assert [path.stem for path in test.paths] == [f"{c}_{i}" for c in ("001", "257") for i in ("0061", "0080")]


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("kind", ["clone", "lists", "zip", "tar"])
def test_groceries_from_a_clone_and_from_any_archive(owner, numbers, kind, tmp_path, capsys):
    files = groceries(numbers=numbers)
    source = {"clone": owner, "lists": owner / "dataset", "zip": owner / "any-name", "tar": owner / "a.tar.gz"}[kind]
    if kind in ("zip", "tar"):
        (write_zip if kind == "zip" else write_tar)(source, {f"root-fc80ba9/{name}": files[name] for name in files})
    else:
        for name, content in files.items():
            (owner / name).parent.mkdir(parents=True, exist_ok=True)
            (owner / name).write_bytes(content)
    before = tree(owner)
    command = ["prepare=grocery_store", f"archive={source}", f"target_data_dir={tmp_path / 'data'}"]
    assert main([*command, "subset=produce", "images_per_class=20"]) == 0, capsys.readouterr().err
    assert "40 training images, 1 held-out images, 4 test images, 2 classes" in capsys.readouterr().out
    assert tree(owner) == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["Grocery_Store-produce-20"]
    train, test = scan_dataset(tmp_path / "data/Grocery_Store-produce-20")
    assert train.classes == ("Golden-Delicious", "Zucchini")
    # The first twenty lines of each class, which are not the first names.
    assert [path.stem for path in train.paths[:20]] == [f"Golden-Delicious_{index:03}" for index in range(3, 23)]
    assert train.paths[0].read_bytes() == files["dataset/train/Fruit/Apple/Golden-Delicious/Golden-Delicious_003.jpg"]
    assert len(test) == 4


def test_the_counts_of_the_real_groceries_are_compared_where_they_are_known():
    produce = PUBLISHED["grocery_store"].subsets["produce"]
    assert [produce.train_images(per_class) for per_class in (0, 5, 20, 21)] == [1_686, 225, 900, 0]


@pytest.mark.parametrize("line", ["../../../secret.jpg", "/train/a/b/c.jpg", "train/a/b.jpg", "val/a/b/c.jpg"])
def test_a_list_of_groceries_cannot_refer_to_a_file_outside(owner, line, tmp_path, capsys):
    files = {**groceries(), "dataset/train.txt": line.encode()}
    command = ["prepare=grocery_store", f"archive={write_zip(owner / 'a.zip', files)}", f"target_data_dir={tmp_path}"]
    assert main(command) == 1
    assert f"train.txt: contains '{line}'; expected train/<category>/.../<class>/<file>" in capsys.readouterr().err


def test_counts_that_match_table_2_are_not_reported(owner, monkeypatch, tmp_path, capsys):
    MAKERS["food_101"](owner)
    monkeypatch.setitem(PUBLISHED, "food_101", replace(PUBLISHED["food_101"], classes=2, train=4, test=2))
    assert main(words("food_101", tmp_path)) == 0
    assert "Table 2" not in capsys.readouterr().out


def test_missing_files_are_reported_with_their_address(owner, tmp_path, capsys):
    (owner / "lists.tar").write_bytes(b"")
    assert main(words("stanford_dogs", tmp_path)) == 1
    error = capsys.readouterr().err
    assert f"{owner / 'images.tar'}: no such file; download http://vision.stanford.edu/" in error
    assert "lists.tar: no such file" not in error
    assert not (tmp_path / "data").exists()


def test_a_wrong_size_or_digest_is_reported_with_both_values(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"content")
    digest = hashlib.md5(b"content", usedforsecurity=False).hexdigest()
    check_archive(Archive("a.tar", "http://x", f"md5:{digest}", 7), path)
    with pytest.raises(DataError, match="7 bytes, but 8 are published"):
        check_archive(Archive("a.tar", "http://x", f"md5:{digest}", 8), path)
    with pytest.raises(DataError, match=f"its md5 is {digest}, but 0000"):
        check_archive(Archive("a.tar", "http://x", f"md5:{'0' * 32}"), path)


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", ["../outside.jpg", "/tmp/afa_outside.jpg", "Images/../../outside.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(unpacked, name, tmp_path):
    write_tar(tmp_path / "a.tar", {name: b"x"})
    if name.startswith("/"):  # an absolute path is unpacked inside the folder, or refused
        unpack(tmp_path / "a.tar", unpacked)
    else:
        with pytest.raises(DataError, match="refused"):
            unpack(tmp_path / "a.tar", unpacked)
    assert not (tmp_path / "outside.jpg").exists()
    assert not Path("/tmp/afa_outside.jpg").exists()


@pytest.mark.parametrize("name", ["../outside.jpg", "/outside.jpg", "a/../../outside.jpg", "link"])
def test_a_zip_file_with_a_link_or_a_path_outside_is_refused(unpacked, name, tmp_path):
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK if name == "link" else stat.S_IFREG) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc")
    with pytest.raises(DataError, match=f"refused: {name} is a link, or is outside the folder"):
        unpack(tmp_path / "a.zip", unpacked)
    assert not list(unpacked.iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(unpacked, kind, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(link("Images", "/etc", kind))
    with pytest.raises(DataError, match="Images is a link or a device"):
        unpack(tmp_path / "a.tar", unpacked)
    assert not list(unpacked.iterdir())


def test_a_truncated_archive_is_one_line(unpacked, tmp_path):
    path = write_tar(tmp_path / "a.tgz", {"a.jpg": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="damaged or incomplete archive"):
        unpack(path, unpacked)


def test_a_damaged_zip_file_is_one_line(unpacked, tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.jpg": os.urandom(5000)})
    content = path.read_bytes()
    for damaged in (content[:2000], content[:100] + b"xxxx" + content[104:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged or incomplete archive") as raised:
            unpack(path, unpacked)
        assert len(raised.value.lines) == 1


def test_a_list_cannot_refer_to_a_file_outside(owner, tmp_path, capsys):
    MAKERS["mit_indoor_67"](owner)
    (owner / "TestImages.txt").write_text("../../secret.jpg\n")
    assert main(words("mit_indoor_67", tmp_path)) == 1
    assert "expected <class>/<file>" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["unpack", "place_images"])
def test_an_interrupted_command_can_be_repeated(owner, moment, monkeypatch, tmp_path, capsys):
    MAKERS["food_101"](owner)
    assert main(words("food_101", tmp_path)) == 0
    complete = tree(tmp_path / "data/Food-101")
    shutil.rmtree(tmp_path / "data")

    calls = 0
    module, name = (os, "link") if moment == "place_images" else (tarfile.TarFile, "extract")
    original = getattr(module, name)

    def die_at_the_third(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, die_at_the_third)
        assert main(words("food_101", tmp_path)) == 130
    assert not (tmp_path / "data/Food-101").exists()
    assert main(words("food_101", tmp_path)) == 0
    assert tree(tmp_path / "data/Food-101") == complete
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["Food-101"]


def test_a_folder_with_other_contents_is_not_changed(owner, tmp_path, capsys):
    (tmp_path / "data/Food-101").mkdir(parents=True)
    (tmp_path / "data/Food-101/thesis.tex").write_text("x")
    assert main(words("food_101", tmp_path)) == 1
    assert "not a data set with train and test folders; move it away" in capsys.readouterr().err
    assert tree(tmp_path / "data") == {"Food-101/thesis.tex": b"x"}


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three classes of 5, 10 and 2 images, one of each class in a nested folder."""
    for name, count in {"cat": 5, "dog": 10, "owl": 2}.items():
        (tmp_path / "pictures" / name / "more").mkdir(parents=True)
        for index in range(count):
            path = tmp_path / "pictures" / name / ("more" if index == 0 else "") / f"{index}.jpg"
            path.write_bytes(picture(seed=index))
    return tmp_path / "pictures"


def test_a_folder_of_classes_is_split_class_by_class_and_by_the_seed(pictures, tmp_path, capsys):
    def split(name: str, *more: str) -> dict[str, bytes]:
        data = tmp_path / "data"
        command = ["prepare=from_folder", f"archive={pictures}", f"target_data_dir={data}", f"target_dataset={name}"]
        assert main([*command, *more]) == 0, capsys.readouterr().err
        return tree(data / name)

    first, same, other = split("a"), split("b"), split("c", "seed=2")
    assert first == same
    assert sorted(first) != sorted(other)
    counts = {
        c: [sum(n.startswith(f"{s}/{c}/") for n in first) for s in ("train", "test")] for c in ("cat", "dog", "owl")
    }
    assert counts == {"cat": [4, 1], "dog": [8, 2], "owl": [1, 1]}
    assert sorted(name.split("/", 1)[1] for name in first) == sorted(tree(pictures))
    copy = next((tmp_path / "data/a/train/cat").rglob("*.jpg"))
    assert copy.stat().st_nlink == 1  # a program that changes it does not change the original


def test_without_hard_links_images_of_an_archive_are_copied(owner, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    MAKERS["food_101"](owner)
    assert main(words("food_101", tmp_path)) == 0
    assert len(scan_dataset(tmp_path / "data/Food-101")[0]) == 4


def from_folder(pictures: Path, *more: str) -> list[str]:
    return ["prepare=from_folder", f"archive={pictures}", f"target_data_dir={pictures.parent / 'data'}", *more]


def test_a_disk_that_fills_up_is_named_not_the_image_that_is_copied(pictures, tmp_path, monkeypatch, capsys):
    def fill_up(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(source), None, str(target))  # as shutil does

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", fill_up)
        assert main(from_folder(pictures)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    folder = tmp_path / "data"
    assert line.startswith(f"{folder}/pictures: cannot be created: {folder}/.pictures.partial/")
    assert line.endswith(".jpg: No space left on device")
    assert main(from_folder(pictures)) == 0


def test_a_split_that_is_not_what_was_asked_for_is_refused(pictures, tmp_path, capsys):
    """As a run with other settings: another fraction, seed or image; an image that was changed or removed."""
    folder = tmp_path / "data/pictures"
    assert main(from_folder(pictures)) == 0
    assert main(from_folder(pictures)) == 0
    for wrong in ("test_fraction=0.5", "seed=3"):
        assert main(from_folder(pictures, wrong)) == 1
        error = capsys.readouterr().err
        assert f"{folder}: is not the split of {pictures} with " in error
        assert wrong in error
        assert error.count("\n") == 1
    before = tree(folder)
    (pictures / "cat/new.jpg").write_bytes(picture(seed=77))
    assert main(from_folder(pictures)) == 1
    assert tree(folder) == before
    (pictures / "cat/new.jpg").unlink()
    removed = next((folder / "train/dog").glob("*.jpg"))
    content = removed.read_bytes()
    removed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(from_folder(pictures)) == 1
    assert f"1 images differ, for example {removed.relative_to(folder)}" in capsys.readouterr().err
    removed.unlink()
    assert main(from_folder(pictures)) == 1
    removed.write_bytes(content)
    assert main(from_folder(pictures)) == 0


def test_two_processes_at_once_create_one_complete_folder(pictures, tmp_path):
    for index in range(400):
        (pictures / f"dog/{index + 10}.jpg").write_bytes(picture(seed=index % 20))
    command = [sys.executable, "main.py", *from_folder(pictures)]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=100)[0] for process in others]
    assert [process.returncode for process in others] == [0, 0, 0], outputs
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert sum(map(len, scan_dataset(tmp_path / "data/pictures"))) == 417
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["pictures"]


def test_one_process_waits_for_another(pictures, tmp_path, monkeypatch, capsys):
    """It was killed, or is still at work: what it leaves behind is not used."""
    (tmp_path / "data/.pictures.partial/train/old").mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "data/.pictures.lock"], stdout=subprocess.PIPE)
    assert process.stdout.read(1) == b"x"
    monkeypatch.setattr("afa.files.time.sleep", lambda seconds: process.kill() or process.wait())
    assert main(from_folder(pictures)) == 0
    assert f"another process is creating {tmp_path / 'data/pictures'}; waiting for it\n" in capsys.readouterr().out
    assert scan_dataset(tmp_path / "data/pictures")[0].classes == ("cat", "dog", "owl")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["pictures"]


def test_what_is_odd_about_a_folder_of_classes_is_a_line_each(pictures, capsys):
    shutil.copy(pictures / "cat/1.jpg", pictures / "cat/again.jpg")
    shutil.copytree(pictures / "cat", pictures / "cat/@eaDir")
    (pictures / "owl/photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert main(from_folder(pictures, "test_fraction=0.5")) == 0
    out = capsys.readouterr().out
    assert f"{pictures}: 7 files ignored: 6 in @eaDir (of Synology), 1 .heic; images are " in out
    assert "9 training images, 9 test images, 3 classes" in out
    assert "test images are also training images, so the test accuracy is too high" in out


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_that_would_fill_the_disk_is_refused(unpacked, write, tmp_path, monkeypatch):
    monkeypatch.setattr("afa.preparation.archives._SMALL", 1000)
    path = write(tmp_path / "a.tgz", {f"{index}.jpg": bytes(100_000) for index in range(10)})
    if write is write_zip:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(10):
                archive.writestr(f"{index}.jpg", bytes(100_000))
    with pytest.raises(DataError, match=r"refused: unpacks to more than .*; an archive of images is smaller"):
        unpack(path, unpacked)
    assert not unpacked.exists()


def test_a_file_that_is_larger_than_the_disk_is_refused(unpacked, tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", {"a.jpg": bytes(100_000)})
    usage = iter([10**9, 99_999])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(usage)))
    with pytest.raises(DataError, match=r"are free, a file in a\.tar needs "):
        unpack(path, unpacked)
    assert not list(unpacked.iterdir())


def test_copies_need_space(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert main(from_folder(pictures)) == 1
    assert f"{tmp_path / 'data'}: 0 MB are free, the copies need " in capsys.readouterr().err


def test_a_folder_that_is_already_split_is_refused(pictures, tmp_path, capsys):
    (tmp_path / "done").mkdir()
    shutil.move(pictures, tmp_path / "done" / "train")
    assert main(["prepare=from_folder", f"archive={tmp_path / 'done'}", f"target_data_dir={tmp_path / 'data'}"]) == 1
    assert f"the classes seem to be in {tmp_path / 'done' / 'train'} (cat, dog, owl)" in capsys.readouterr().err


def test_a_split_cannot_replace_the_original_images(pictures, tmp_path, capsys):
    before = tree(pictures)
    assert main(["prepare=from_folder", f"archive={pictures}", f"target_data_dir={tmp_path}"]) == 2
    assert f"target_dataset: {pictures} is the folder of the original images" in capsys.readouterr().err
    assert main(["prepare=from_folder", f"archive={pictures}", f"target_data_dir={pictures}/new/data"]) == 2
    assert tree(pictures) == before
    assert not (pictures / "new").exists()


def test_a_key_of_another_data_set_is_refused(tmp_path, capsys):
    command = ["prepare=food_101", f"archive={tmp_path}", f"target_data_dir={tmp_path}", "test_fraction=0.5"]
    assert main(command) == 2
    assert "test_fraction: is not a setting of prepare=food_101 (only of: from_folder)" in capsys.readouterr().err


def test_a_missing_scipy_is_reported(owner, tmp_path, monkeypatch, capsys):
    MAKERS["stanford_dogs"](owner)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert main(words("stanford_dogs", tmp_path)) == 1
    assert capsys.readouterr().err == "the lists of this data set are MATLAB files: pip install scipy\n"
