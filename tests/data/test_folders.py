"""Images and classes found in folders, and the errors for folders that cannot be used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder as TorchvisionFolder

from afa.data.folders import (
    find_layout,
    hold_out,
    missing_classes,
    scan_dataset,
    scan_held_out,
    scan_split,
    without,
)
from afa.data.images import FORMATS
from afa.data.walk import EXTENSIONS
from afa.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))


def relative(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in scan_split(root).paths]


def lines_of(action: Callable[..., object], *arguments: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        action(*arguments)
    return caught.value.lines


def test_classes_and_images_come_in_the_order_of_torchvision(make_split: Callable[..., Path]) -> None:
    root = make_split(zebra=3, Ant=2, 柴犬=1)
    ours, theirs = scan_split(root), TorchvisionFolder(root)
    assert ours.classes == tuple(theirs.classes) == ("Ant", "zebra", "柴犬")
    assert [(str(path), label) for path, label in zip(ours.paths, ours.labels, strict=True)] == theirs.samples
    assert len(ours) == 6


def test_nested_folders_and_extensions_in_any_case_are_found_and_hidden_names_are_not(tmp_path: Path) -> None:
    wanted = [f"a/{index}{extension.upper()}" for index, extension in enumerate(EXTENSIONS)]
    touch(tmp_path, *wanted, "a/deep/er/犬.Jpg", "a/._1.jpg", "a/.cache/1.jpg", "a/readme.txt", ".git/1.jpg", "b.jpg")
    assert relative(tmp_path) == [*wanted, "a/deep/er/犬.Jpg"]
    (line,) = scan_split(tmp_path).notes
    kinds = "1 in .git, 1 next to the class folders, 1 hidden, 1 in .cache, 1 .txt"
    assert line == f"{tmp_path}: 5 files ignored: {kinds}; images are JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM files"


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "root/a/2.jpg", "root/a/sub/3.jpg")
    touch(tmp_path, "root/b/5.jpg")
    (tmp_path / "root/a/4.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (tmp_path / "root/a/sub/up").symlink_to(tmp_path / "root/a")
    (tmp_path / "root/a/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a/itself").symlink_to(tmp_path / "root/a/itself")
    assert relative(tmp_path / "root") == ["a/2.jpg", "a/4.jpg", "a/link/1.jpg", "a/sub/3.jpg", "b/5.jpg"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_file_in_two_classes_is_refused(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "test/b/4.jpg")
    link(tmp_path / "train/a/1.jpg", tmp_path / "train/a/copy.jpg")
    assert len(scan_dataset(tmp_path)[0]) == 3
    link(tmp_path / "train/a/1.jpg", tmp_path / "test/b/5.jpg")
    one, other = tmp_path / "train/a/1.jpg", tmp_path / "test/b/5.jpg"
    expected = f"one file in two classes, by a link: {one} and {other} (1 such files); remove the links"
    assert lines_of(scan_dataset, tmp_path) == [expected]


def test_a_linked_class_and_a_link_to_a_folder_above(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "root/b/2.jpg", "root/b/3.jpg")
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere")
    assert relative(tmp_path / "root") == ["a/1.jpg", "b/2.jpg", "b/3.jpg"]
    for target in (tmp_path, tmp_path / "root"):
        (tmp_path / "root/b/up").symlink_to(target)
        assert lines_of(scan_split, tmp_path / "root") == [
            f"{tmp_path}/root/b/up: a link to a folder above it; remove it"
        ]
        (tmp_path / "root/b/up").unlink()
    (tmp_path / "root/b/other").symlink_to(tmp_path / "elsewhere")
    assert lines_of(scan_split, tmp_path / "root")[0].startswith("one file in two classes, by a link: ")


def test_folders_that_are_not_classes_are_refused(tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/2.jpg", "c/3.jpg"]
    touch(tmp_path, *(f"split/{split}/{name}" for split in ("Train", "TEST", "Valid") for name in names))
    (tmp_path / "split/Valid/c/3.jpg").unlink()
    (line,) = lines_of(scan_split, tmp_path / "split")
    assert "TEST, Train, Valid are not classes: they contain the same folders (a, b, c) instead of images" in line
    assert f"name them train and test, and train with target_data_dir={tmp_path} target_dataset=split" in line
    touch(tmp_path, *(f"split/Train/{name}/{index}.jpg" for name in "abc" for index in range(4)), "split/Train/all.jpg")
    assert lines_of(scan_split, tmp_path / "split") == [line]  # with an overview of the classes, too
    touch(tmp_path, *(f"named/{split}/{name}" for split in ("train", "val") for name in names))
    (line,) = lines_of(scan_split, tmp_path / "named")
    assert f"if they are splits, train with target_data_dir={tmp_path} target_dataset=named" in line
    touch(tmp_path, *(f"deep/images/all/{name}" for name in names))
    (line,) = lines_of(scan_split, tmp_path / "deep")
    assert f"the classes seem to be in {tmp_path}/deep/images/all (a, b, c): move them to {tmp_path}/deep" in line
    touch(tmp_path, *(f"lv/lv/{split}/{name}" for split in ("train", "test") for name in names))
    assert f"use target_data_dir={tmp_path}/lv target_dataset=lv" in lines_of(scan_dataset, tmp_path / "lv")[0]
    touch(tmp_path, *(f"unsplit/{name}" for name in names))
    assert (
        f"prepare=from_folder archive={tmp_path}/unsplit splits them" in lines_of(scan_dataset, tmp_path / "unsplit")[2]
    )


def test_nested_folders_of_classes_are_accepted(tmp_path: Path) -> None:
    """A line about several folders in a class; none about a single one in each class, as in Tiny ImageNet."""
    touch(tmp_path, "two/animal/cat/1.jpg", "two/animal/dog/1.jpg", "two/car/van/1.jpg", "two/tree/1.jpg")
    found = scan_split(tmp_path / "two")
    assert found.classes == ("animal", "car", "tree")
    assert found.notes == (f"{tmp_path}/two: one class each, although their images are in folders: animal (cat, dog)",)
    touch(tmp_path, "tiny/a/images/1.jpg", "tiny/b/images/1.jpg")
    touch(tmp_path, *(f"many/{index}/{name}/1.jpg" for index in range(11) for name in ("left", "right")))
    for name, count in (("tiny", 2), ("many", 11)):
        assert len(scan_split(tmp_path / name).classes) == count
    (line,) = scan_split(tmp_path / "many").notes
    assert "0, 1, 10, 2, 3 and 6 more are one class each, although they contain the same folders (left, right)" in line


def test_images_and_masks_are_a_line(tmp_path: Path) -> None:
    touch(tmp_path, "a/Images/1.jpg", "a/masks/1.png", "b/images/1.jpg", "b/dog/1.jpg")
    (line,) = scan_split(tmp_path / "a").notes
    assert line.startswith(f"{tmp_path}/a: Images, masks are one class each; if they are images and their masks, ")
    assert scan_split(tmp_path / "b").notes == ()


def test_images_that_may_be_thumbnails_are_a_line(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "a/small/1.png", "a/small/2.png", "b/1.jpg", "b/day_1/3.jpg", "b/day_2/3.jpg")
    (line,) = scan_split(tmp_path).notes
    assert f"2 images have the name of another image of their class, for example {tmp_path}/a/small/1.png" in line


def test_class_names_that_only_look_the_same_are_shown_in_ascii(tmp_path: Path) -> None:
    touch(tmp_path, "train/gr\xfcn/1.jpg", "test/gru\u0308n/1.jpg", "train/a /1.jpg", "test/a/1.jpg")
    (line,) = lines_of(scan_dataset, tmp_path)
    assert line.endswith(r"only in train: 'a ', 'gr\xfcn'; only in test: 'a', 'gru\u0308n'")


def test_all_problems_of_a_split_are_reported_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b/notes.txt", "b/2.npy", "c/1.jpg")
    (tmp_path / "d").mkdir()
    scandir = os.scandir

    def deny(path: str) -> object:
        if Path(path).name == "c":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", deny)  # mode bits do not restrict root
        lines = lines_of(scan_split, tmp_path)
    assert lines == [
        f"{tmp_path / 'b'}: no image in this class ({', '.join(FORMATS)}); ignored files: .npy, .txt",
        f"{tmp_path / 'c'}: cannot be read: Permission denied",
        f"{tmp_path / 'd'}: no image in this class ({', '.join(FORMATS)})",
    ]


def test_a_split_without_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    assert lines_of(scan_split, tmp_path) == [f"{tmp_path}: no class folder in it; expected {tmp_path}/<class>/*"]
    assert lines_of(scan_split, tmp_path / "1.jpg") == [f"{tmp_path}/1.jpg: not a folder"]


def test_a_missing_data_set_is_reported_with_the_closest_name_and_the_layout(tmp_path: Path) -> None:
    for name in ("Stanford_Dogs", "CUB-200-2011", ".hidden"):
        (tmp_path / name).mkdir()
    missing = tmp_path / "stanford_dog"
    layout = f"expected {missing}/train/<class>/* and {missing}/test/<class>/*"
    siblings = "(next to it: CUB-200-2011, Stanford_Dogs)"
    assert lines_of(scan_dataset, missing) == [
        f"{missing}: no such folder, did you mean 'Stanford_Dogs'? {siblings}; {layout}"
    ]
    far = tmp_path / "nowhere" / "Dogs"
    assert lines_of(scan_dataset, far)[0].startswith(f"{far}: no such folder; {far.parent} does not exist either; ")


def test_problems_of_both_splits_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, "TRAIN/a/1.jpg")
    assert lines_of(scan_dataset, tmp_path) == [
        f"{tmp_path}/train: no such folder, did you mean 'TRAIN'? (next to it: TRAIN)",
        f"{tmp_path}/test: no such folder (next to it: TRAIN)",
        f"{tmp_path}: if its folders are classes, prepare=from_folder archive={tmp_path} splits them",
    ]


def test_train_and_test_need_the_same_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/{name}/1.jpg" for name in "abcdefgh"), "test/a/1.jpg", "test/z/1.jpg")
    only = "only in train: b, c, d, e, f and 2 more; only in test: z"
    assert lines_of(scan_dataset, tmp_path) == [f"{tmp_path}: train and test have different classes; {only}"]


def test_a_good_data_set(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg", "test/b/2.jpg")
    train, test = scan_dataset(tmp_path)
    assert (train.labels, test.labels, train.root) == ((0, 1), (0, 1, 1), tmp_path / "train")


def test_the_folders_of_a_data_set(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "both/train/a/1.jpg",
        "both/test/a/1.jpg",
        "both/valid/a/1.jpg",
        "one/val/b/1.jpg",
        "one/train/a/1.jpg",
    )
    both, one = tmp_path / "both", tmp_path / "one"
    assert find_layout(both) == (both / "train", both / "test", both / "valid")
    assert find_layout(one) == (one / "train", one / "val", None)
    assert find_layout(tmp_path) == (tmp_path / "train", tmp_path / "test", None)
    assert lines_of(scan_dataset, both) == [f"{both}: a single class, a; at least two are needed"]
    assert lines_of(scan_dataset, one) == [
        f"{one}: train and val have different classes; only in train: a; only in val: b"
    ]


def test_held_out_images_have_the_labels_of_the_training_classes(tmp_path: Path) -> None:
    touch(tmp_path, "val/b/1.jpg", "val/d/1.jpg", "val/d/2.jpg")
    held_out = scan_held_out(tmp_path / "val", ("a", "b", "c", "d"))
    assert (held_out.labels, held_out.classes) == ((1, 3, 3), ("a", "b", "c", "d"))
    assert missing_classes(held_out) == f"{tmp_path / 'val'}: 2 of the 4 classes have no image: a, c"
    assert missing_classes(scan_held_out(tmp_path / "val", ("b", "d"))) == ""
    assert lines_of(scan_held_out, tmp_path / "val", ("b", "c")) == [
        f"{tmp_path / 'val'}: has classes that train does not have: d"
    ]


def test_the_fingerprint_depends_on_names_and_sizes_and_not_on_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a/1.jpg", "a/2.jpg")
    touch(tmp_path / "two", "a/1.jpg", "a/2.jpg")
    first, second = (scan_split(tmp_path / name) for name in ("one", "two"))
    assert first.fingerprint() == second.fingerprint()
    (tmp_path / "two/a/2.jpg").write_bytes(b"another size")
    assert first.fingerprint() != second.fingerprint()
    (tmp_path / "one/a/2.jpg").rename(tmp_path / "one/a/3.jpg")
    assert scan_split(tmp_path / "one").fingerprint() not in (first, second)
    assert lines_of(first.fingerprint) == [f"{tmp_path}/one/a/2.jpg: No such file or directory"]


@pytest.mark.parametrize(
    ("fraction", "held"), [(0.1, (1, 1, 2)), (0.5, (1, 2, 10)), (0.9, (1, 3, 18)), (1.0, (1, 3, 19))]
)
def test_hold_out_takes_the_fraction_of_each_class(tmp_path: Path, fraction: float, held: tuple[int, ...]) -> None:
    touch(
        tmp_path,
        *(f"{name}/{index:02}.jpg" for name, count in (("a", 2), ("b", 4), ("c", 20)) for index in range(count)),
    )
    folder = scan_split(tmp_path)
    train, held_out = hold_out(folder, fraction, seed=1)
    assert tuple(held_out.labels.count(label) for label in range(3)) == held
    assert sorted(train.paths + held_out.paths) == list(folder.paths)
    assert list(train.paths) == sorted(train.paths)
    assert list(held_out.paths) == sorted(held_out.paths)
    assert all(path.parent.name == "abc"[label] for path, label in zip(train.paths, train.labels, strict=True))


def test_hold_out_depends_only_on_its_seed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{index:02}.jpg" for name in "ab" for index in range(20)))
    folder = scan_split(tmp_path)
    before = hold_out(folder, 0.5, seed=1)
    assert before == hold_out(folder, 0.5, seed=1)
    assert before != hold_out(folder, 0.5, seed=2)
    in_a, in_b = ([int(path.stem) for path in before[1].paths if path.parent.name == name] for name in "ab")
    assert in_a != in_b
    touch(tmp_path, "a/20.jpg")
    after = hold_out(scan_split(tmp_path), 0.5, seed=1)
    assert in_b == [int(path.stem) for path in after[1].paths if path.parent.name == "b"]


def test_hold_out_refuses_classes_of_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg", "c/1.jpg")
    assert lines_of(hold_out, scan_split(tmp_path), 0.5, 1) == [
        f"{tmp_path}/{name}: a single image; at least 2 are needed to hold one out" for name in "ac"
    ]


def test_without_removes_bad_images(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    folder = scan_split(tmp_path)
    rest = without(folder, [tmp_path / "a/1.jpg", tmp_path / "b/2.jpg"])
    assert (rest.paths, rest.labels) == ((tmp_path / "a/2.jpg", tmp_path / "b/1.jpg"), (0, 1))
    assert rest.classes == folder.classes
    assert lines_of(without, folder, folder.paths[2:]) == [f"{tmp_path}/b: all its images are bad"]
