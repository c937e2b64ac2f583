"""``prepare=<data set>``: convert the owners' archives, or a folder of classes, to ``{train,test}/<class>/*``."""

import contextlib
import filecmp
import functools
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from afa.config.tasks import PrepareSettings
from afa.data.class_folders import VALIDATION
from afa.data.folders import describe_copies, find_layout, hold_out, scan_dataset, scan_split
from afa.data.images import is_image
from afa.data.published import PUBLISHED, Published
from afa.data.walk import EXTENSIONS
from afa.errors import AFAError, ConfigError, DataError
from afa.files import locked
from afa.preparation.archives import find_archives, unpack
from afa.preparation.readers import READERS, Choice, find_groceries
from afa.results.journal import Progress, say
from afa.results.outcomes import format_bytes


def prepare(settings: PrepareSettings) -> None:
    """Create the folder of the data set completely or not at all, and report its contents.

    An existing folder is not changed.

    Raises:
        AFAError: see its subclasses.
    """
    published, source = PUBLISHED.get(settings.prepare), Path(settings.archive)
    if published:
        published = published.subsets.get(settings.subset, published)
        per_class = settings.images_per_class or published.per_class
        name = f"{published.folder}-{per_class}" if per_class else published.folder
    else:
        name = settings.target_dataset or source.resolve().name
    folder = Path(settings.target_data_dir) / name
    if not published and source.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ConfigError(f"target_dataset: {folder} is the folder of the original images, or in it; choose another")
    if not published:
        _split_folder(settings, folder)
    elif not folder.exists():
        _prepare_published(settings, Choice(per_class, settings.subset), folder, published)
    try:
        train, test = scan_dataset(folder)
        held_out = find_layout(folder).held_out
        more = f", {len(scan_split(held_out))} held-out images" if held_out else ""
    except AFAError as error:
        raise DataError([*error.lines, f"{folder}: not a data set with train and test folders; move it away"]) from None
    if published:
        _compare_counts(published, per_class, len(train), len(test), len(train.classes))
    for line in describe_copies({"test": test, "training": train}):
        say(line)
    say(
        f"{folder}: {len(train)} training images{more}, {len(test)} test images, {len(train.classes)} classes; "
        f"train with target_data_dir={folder.parent} target_dataset={folder.name}"
    )


def _prepare_published(settings: PrepareSettings, choice: Choice, folder: Path, published: Published) -> None:
    source = Path(settings.archive)
    unpacked = folder.with_name(f".{folder.name}.unpacked")
    read, is_clone = READERS[settings.prepare], settings.prepare == "grocery_store" and bool(find_groceries(source))
    paths = [] if is_clone else find_archives(published.archives, source, fetch=settings.download)
    with _only_process(folder):
        if folder.exists():  # another process has created it
            return
        for path in paths:
            unpacked.mkdir(exist_ok=True)
            if path.suffix == ".txt":
                shutil.copyfile(path, unpacked / path.name)
            else:
                unpack(path, unpacked)
        listing = read(source if is_clone else unpacked, choice)
        if listing.skipped:
            say(f"skipped {listing.skipped} files in the archive that do not belong to the data set")
        images = []
        for split, entries in (("train", listing.train), ("test", listing.test), ("val", listing.val)):
            for class_name, image in entries:
                extension = "" if image.name.lower().endswith(EXTENSIONS) else ".jpg"
                images.append((image, Path(split, class_name, image.name + extension)))
        place_images(images, folder, link=not is_clone)
        shutil.rmtree(unpacked, ignore_errors=True)  # a clone needs none


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Wait until no other process creates ``folder``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    say_once = functools.cache(lambda: say(f"another process is creating {folder}; waiting for it"))
    with locked(folder.with_name(f".{folder.name}.lock"), wait=say_once, remove=True):
        yield


def _compare_counts(published: Published, per_class: int, *found: int) -> None:
    """Print the numbers of training images, test images and classes that differ from the known ones."""
    known = {"training images": published.train_images(per_class), "test images": published.test}
    for (what, expected), count in zip({**known, "classes": published.classes}.items(), found, strict=True):
        if expected and count != expected:
            say(f"{published.title}: {count} {what}; {published.counted_in} has {expected}")


def _split_folder(settings: PrepareSettings, folder: Path) -> None:
    """Create ``folder`` from the folder of classes. Raises DataError if it exists and is another split."""
    images = scan_split(Path(settings.archive))
    root = images.root
    for line in images.notes:
        say(line)
    if set(images.classes) <= {"train", "test", *VALIDATION}:
        raise DataError(
            f"{root}: is already split into {', '.join(images.classes)}; "
            f"train with target_data_dir={root.parent} target_dataset={root.name}"
        )
    if unreadable := [path for path in images.paths if not is_image(path)]:
        say(f"{root}: {len(unreadable)} files are not readable images, for example {unreadable[0]}")
    train, test = hold_out(images, settings.test_fraction, settings.seed)
    splits = {"train": train.paths, "test": test.paths}
    placed = {Path(split, path.relative_to(root)): path for split, paths in splits.items() for path in paths}
    with _only_process(folder):
        if not folder.exists():
            place_images([(image, path) for path, image in placed.items()], folder, link=False)
    found = {path.relative_to(folder): path for split in scan_dataset(folder) for path in split.paths}
    different = [
        path
        for path in sorted(placed.keys() | found.keys())
        if not (path in placed and path in found and filecmp.cmp(found[path], placed[path], shallow=False))
    ]
    if different:
        raise DataError(
            f"{folder}: is not the split of {root} with test_fraction={settings.test_fraction:g} seed={settings.seed}: "
            f"{len(different)} images differ, for example {different[0]}; it was created with other settings or from "
            "other images; move it away, or choose another target_dataset=<name>"
        )


def place_images(images: Sequence[tuple[Path, Path]], folder: Path, *, link: bool) -> None:
    """Create ``folder`` with all images. Until it is complete, it has another name.

    Args:
        images: the path of each image, and its new path relative to ``folder``, such as ``train/tulip/001.jpg``.
        link: whether hard links are made if possible. A program that changes one of them changes the original, too.

    Raises:
        DataError: images are missing, two have the same new path, or the folder cannot be written.
    """
    if missing := [str(image) for image, _ in images if not image.is_file()]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(f"listed but missing: {', '.join(missing[:5])}{more}; is the archive complete?")
    twice = [path for path, count in Counter(path for _, path in images).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}: listed twice")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if partial.exists():  # left by an interrupted call
            shutil.rmtree(partial)
        size, free = sum(image.stat().st_size for image, _ in images), shutil.disk_usage(folder.parent).free
        if size > free and not link:
            raise DataError(f"{folder.parent}: {format_bytes(free)} are free, the copies need {format_bytes(size)}")
        with Progress(f"creating {folder.name}", len(images)) as bar:
            for image, path in images:
                target = partial / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # another file system, or one without hard links
                    if link:
                        os.link(os.path.realpath(image), target)
                if not target.exists():
                    shutil.copyfile(image, target)
                bar.update(1)
        partial.rename(folder)
    except OSError as error:
        path = error.filename2 or error.filename or partial  # of a copy, the second one is the new file
        raise DataError(f"{folder}: cannot be created: {path}: {error.strerror}") from None
