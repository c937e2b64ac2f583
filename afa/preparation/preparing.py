"""``prepare=<data set>``: convert the owners' archives, or a folder of classes, to ``{train,test}/<class>/*``."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from afa.config.tasks import PrepareSettings
from afa.data.folders import VALIDATION, find_layout, hold_out, scan_dataset, scan_split
from afa.data.published import PUBLISHED, Published
from afa.data.walk import EXTENSIONS
from afa.errors import AFAError, ConfigError, DataError
from afa.preparation.archives import find_archives, unpack
from afa.preparation.readers import READERS, Choice, Listing, find_groceries
from afa.results.journal import Progress, say


def prepare(settings: PrepareSettings) -> None:
    """Create the data set's folder, complete or not at all, and report its contents. An existing one is not changed.

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
    if folder.exists() and folder.resolve() == source.resolve():
        raise ConfigError(f"target_dataset: {folder} is the folder of the original images; choose another name")
    if not folder.exists():
        if published:
            _prepare_published(settings, published, Choice(per_class, settings.subset), folder)
        else:
            _split_folder(settings, folder)
    try:
        train, test = scan_dataset(folder)
        held_out = find_layout(folder).held_out
        more = f", {len(scan_split(held_out))} held-out images" if held_out else ""
    except AFAError as error:
        raise DataError([*error.lines, f"{folder}: not a data set with train and test folders; move it away"]) from None
    say(
        f"{folder}: {len(train)} training images{more}, {len(test)} test images, {len(train.classes)} classes; "
        f"train with target_data_dir={folder.parent} target_dataset={folder.name}"
    )


def _prepare_published(settings: PrepareSettings, published: Published, choice: Choice, folder: Path) -> None:
    source = Path(settings.archive)
    unpacked = folder.with_name(f".{folder.name}.unpacked")
    if settings.prepare == "grocery_store" and find_groceries(source):  # a clone
        listing = READERS[settings.prepare](source, choice)
    else:
        paths = find_archives(published.archives, source, fetch=settings.download)
        unpacked.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.suffix == ".txt":
                shutil.copyfile(path, unpacked / path.name)
            else:
                unpack(path, unpacked)
        listing = READERS[settings.prepare](unpacked, choice)
    _compare_counts(listing, published, choice.per_class)
    images = []
    for split, entries in (("train", listing.train), ("test", listing.test), ("val", listing.val)):
        for class_name, image in entries:
            # Training finds images by their extension, and recognises their format by content.
            extension = "" if image.name.lower().endswith(EXTENSIONS) else ".jpg"
            images.append((image, Path(split, class_name, image.name + extension)))
    place_images(images, folder)
    shutil.rmtree(unpacked, ignore_errors=True)  # a clone needs none


def _compare_counts(listing: Listing, published: Published, per_class: int) -> None:
    """Print the counts that differ from the known ones."""
    if listing.skipped:
        say(f"skipped {listing.skipped} files in the archive that do not belong to the data set")
    classes = {name for name, _ in (*listing.train, *listing.test)}
    for what, found, expected in (
        ("training images", len(listing.train), published.train_images(per_class)),
        ("test images", len(listing.test), published.test),
        ("classes", len(classes), published.classes),
    ):
        if expected and found != expected:
            say(f"{published.title}: {found} {what}; {published.counted_in} has {expected}")


def _split_folder(settings: PrepareSettings, folder: Path) -> None:
    images = scan_split(Path(settings.archive))
    root = images.root
    if set(images.classes) <= {"train", "test", *VALIDATION}:
        raise DataError(
            f"{root}: is already split into {', '.join(images.classes)}; "
            f"train with target_data_dir={root.parent} target_dataset={root.name}"
        )
    train, test = hold_out(images, settings.test_fraction, settings.seed)
    splits = {"train": train.paths, "test": test.paths}
    place_images([(path, Path(s, path.relative_to(root))) for s, paths in splits.items() for path in paths], folder)


def place_images(images: Sequence[tuple[Path, Path]], folder: Path) -> None:
    """Create ``folder`` with all images, as hard links if possible. Until it is complete, it has another name.

    Args:
        images: the path of each image, and its new path relative to ``folder``, such as ``train/tulip/001.jpg``.

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
        with Progress(f"creating {folder.name}", len(images)) as bar:
            for image, path in images:
                target = partial / path
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(os.path.realpath(image), target)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(image, target)
                bar.update(1)
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
