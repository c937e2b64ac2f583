"""``prepare=<data set>``: the owners' archives, or a folder of pictures, into ``<data set>/{train,test}/<class>/*``."""

import shutil
from pathlib import Path

from afa.config.tasks import PrepareSettings
from afa.data.catalogue import PUBLISHED, Published
from afa.data.folders import EXTENSIONS, ImageFolder, hold_out, scan_dataset, scan_split
from afa.errors import AFAError, ConfigError, DataError
from afa.prepare.archives import check_archive, find_archives, unpack
from afa.prepare.download import download
from afa.prepare.place import Placed, place_images
from afa.prepare.readers import READERS, Listing


def prepare(settings: PrepareSettings) -> None:
    """Do what the settings say. A data set that is there already is left as it is.

    Raises:
        AFAError: see its subclasses; the data set's folder is made whole or not at all.
    """
    name = _folder_name(settings)
    folder = Path(settings.target_data_dir) / name
    if folder.exists() and folder.resolve() == Path(settings.archive).resolve():
        raise ConfigError(f"target_dataset: the pictures themselves are at {folder}; give the split another name")
    if folder.exists():
        _say_what_is_there(folder)
        return
    if settings.prepare == "from_folder":
        _from_folder(settings, folder)
    else:
        _from_archives(settings, PUBLISHED[settings.prepare], folder)
    _say_what_is_there(folder)


def _folder_name(settings: PrepareSettings) -> str:
    if settings.prepare == "from_folder":
        return settings.target_dataset or Path(settings.archive).resolve().name
    return PUBLISHED[settings.prepare].folder.format(per_class=settings.images_per_class)


def _say_what_is_there(folder: Path) -> None:
    try:
        train, test = scan_dataset(folder)
    except AFAError as error:
        raise DataError([*error.lines, f"{folder}: no data set as training wants it; move it away"]) from None
    print(
        f"{folder}: {len(train)} training images, {len(test)} test images, {len(train.classes)} classes; "
        f"train with target_data_dir={folder.parent} target_dataset={folder.name}"
    )


def _from_archives(settings: PrepareSettings, published: Published, folder: Path) -> None:
    given = Path(settings.archive)
    home = given.parent if given.is_file() else given
    if settings.download:
        for archive in published.archives:
            if not (home / archive.name).exists():
                download(archive, home)
    paths = find_archives(published.archives, home)
    for archive, path in zip(published.archives, paths, strict=True):
        check_archive(archive, path)
    unpacked = folder.with_name(f".{folder.name}.unpacked")
    unpacked.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.suffix == ".txt":
            shutil.copyfile(path, unpacked / path.name)
        else:
            unpack(path, unpacked)
    listing = READERS[settings.prepare](unpacked, settings.images_per_class)
    _compare(listing, published, settings.images_per_class)
    place_images(
        [
            Placed(image, Path(split, name, _told_as_image(image.name)))
            for split, entries in (("train", listing.train), ("test", listing.test))
            for name, image in entries
        ],
        folder,
    )
    shutil.rmtree(unpacked)


def _told_as_image(name: str) -> str:
    """Training tells an image by its ending, and reads it by its content."""
    return name if name.lower().endswith(EXTENSIONS) else f"{name}.jpg"


def _compare(listing: Listing, published: Published, per_class: int) -> None:
    """Say where the counts are not those of the paper's Table 2."""
    if listing.strays:
        print(f"{listing.strays} files in the archive are no images of the data set and were left out")
    classes = {name for name, _ in (*listing.train, *listing.test)}
    pairs = [
        ("training images", len(listing.train), published.train or published.classes * per_class),
        ("test images", len(listing.test), published.test),
        ("classes", len(classes), published.classes),
    ]
    for what, found, wanted in pairs:
        if found != wanted:
            print(f"{published.title}: {found} {what}; the paper's Table 2 has {wanted}")


def _from_folder(settings: PrepareSettings, folder: Path) -> None:
    whole = scan_split(Path(settings.archive))
    if set(whole.classes) <= {"train", "test", "val", "validation"}:
        raise DataError(
            f"{whole.root}: is split already into {', '.join(whole.classes)}; "
            f"train with target_data_dir={whole.root.parent} target_dataset={whole.root.name}"
        )
    train, test = hold_out(whole, settings.test_fraction, settings.seed)
    place_images([*_placed(train, "train"), *_placed(test, "test")], folder)


def _placed(images: ImageFolder, split: str) -> list[Placed]:
    return [Placed(path, Path(split, path.relative_to(images.root))) for path in images.paths]
