"""Create the folder of a data set: complete or not at all, with hard links to the images where possible."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from afa.errors import DataError
from afa.results.journal import Progress


def place_images(images: Sequence[tuple[Path, Path]], folder: Path) -> None:
    """Create ``folder`` with all images. Until it is complete, it has another name.

    Args:
        images: the path of each image, and its new path relative to ``folder``, such as ``train/tulip/001.jpg``.

    Raises:
        DataError: images are missing, two have the same new path, or the folder cannot be written.
    """
    missing = [str(image) for image, _ in images if not image.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(f"listed but missing: {', '.join(missing[:5])}{more}; is the archive complete?")
    seen: set[Path] = set()
    for _, path in images:
        if path in seen:
            raise DataError(f"{path}: listed twice")
        seen.add(path)
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
