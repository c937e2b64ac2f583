"""Checks whether the folders of a split are classes, or splits, folders of classes, or images and their masks."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from afa.errors import DataError

VALIDATION = ("val", "valid", "validation")
"""Names of a folder with validation images."""
_MOST_SPLITS = 10  # more folders that contain the same folders may be classes
_SEGMENTATION = {
    *("image", "images", "img", "imgs", "mask", "masks", "label", "labels", "annotation", "annotations", "gt")
}
"""Lower-case names of folders that are next to each other in data for segmentation."""

Images = Mapping[Path, Sequence[Path]]
"""Folder of a class -> its images."""


def check_layout(root: Path, images: Images) -> list[str]:
    """Lines about the folders in ``root`` that may not be classes, and about images that may be thumbnails.

    Raises:
        DataError: the folders are not classes, but splits, or a single folder that contains the classes.
    """
    deep = {folder: _deep(folder, paths) for folder, paths in images.items()}
    # A few images in the folder itself may be overviews of its classes.
    nested = {
        folder: _first_folders(folder, deep[folder])
        for folder, paths in images.items()
        if deep[folder] and len(paths) - len(deep[folder]) <= len(deep[folder]) // 10
    }
    if len(images) == len(nested) == 1:
        raise DataError(_explain_single_folder(root, *deep.items()))
    return [
        *_check_nested(root, nested, len(images)),
        *_find_masks(root, images),
        *_find_thumbnails(root, images, deep),
    ]


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """The first names in alphabetical order, and the number of the others."""
    ordered = sorted(names)
    more = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f" and {more} more" if more > 0 else "")


def _explain_single_folder(root: Path, only: tuple[Path, Sequence[Path]]) -> str:
    """A message that names the folder of the classes in the only folder of ``root``."""
    folder, paths = only
    names = _first_folders(folder, paths)
    while len(names) == 1 and not any(path.parent == folder / names[0] for path in paths):
        folder /= names[0]
        names = _first_folders(folder, paths)
    return (
        f"{root}: its only folder, {only[0].name}, contains folders instead of images; the classes seem "
        f"to be in {folder} ({first_few(names)}): move them to {root}, or use {folder} instead"
    )


def _check_nested(root: Path, nested: Mapping[Path, Sequence[str]], classes: int) -> list[str]:
    """A line about the class folders (path -> names of their folders) that contain folders instead of images.

    Raises:
        DataError: at least half of the classes contain mainly the same folders: they are splits.
    """
    counts = Counter(itertools.chain(*nested.values()))
    shared = {name for name, count in counts.items() if count > 1}
    if (
        len(shared) < 2
        or 2 * len(nested) < classes
        or any(2 * len(shared & set(names)) <= len(names) for names in nested.values())
    ):
        several = [f"{folder.name} ({first_few(names)})" for folder, names in nested.items() if len(names) > 1]
        line = f"{root}: one class each, although their images are in folders: {first_few(several)}"
        return [line] if several else []
    titles = first_few(folder.name for folder in nested)
    same = f"they contain the same folders ({first_few(shared)}) instead of images"
    are_named = {folder.name for folder in nested} <= {"train", "test", *VALIDATION}
    rename = "" if are_named else "name them train and test, and "
    splits = f"if they are splits, {rename}train with target_data_dir={root.parent} target_dataset={root.name}"
    if classes > _MOST_SPLITS:
        return [f"{root}: {titles} are one class each, although {same}; {splits}"]
    move = "otherwise move the images of each class to its own folder"
    raise DataError(f"{root}: {titles} are not classes: {same}; {splits}; {move}")


def _find_masks(root: Path, images: Images) -> list[str]:
    """A line about folders with the names of images and masks."""
    odd = [folder.name for folder in images if folder.name.casefold() in _SEGMENTATION]
    line = (
        f"{root}: {first_few(odd)} are one class each; if they are images and their masks, move the images of "
        "each class to its own folder"
    )
    return [line] if len(odd) > 1 else []


def _find_thumbnails(root: Path, images: Images, deep: Images) -> list[str]:
    """A line about images in a folder of a class (``deep``) with the name of an image next to the folder."""
    mixed = (folder for folder in images if deep[folder])
    above = {(folder, path.stem) for folder in mixed for path in images[folder] if path.parent == folder}
    twins = [path for folder, paths in deep.items() for path in paths if (folder, path.stem) in above]
    if not twins:
        return []
    line = f"{root}: {len(twins)} images have the name of another image of their class, for example {twins[0]}"
    return [f"{line}; remove them if they are thumbnails"]


def _deep(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """The images that are not in ``folder`` itself, but in folders in it."""
    depth = str(folder).count("/") + 1  # Path.parts would take much longer
    return [path for path in paths if str(path).count("/") > depth]


def _first_folders(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Names of the folders in ``folder`` on the way to the images ``paths``."""
    return sorted({path.relative_to(folder).parts[0] for path in paths if path.parent != folder})
