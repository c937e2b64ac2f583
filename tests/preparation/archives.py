"""Miniature archives in the owners' layout, with the irregularities of the real ones."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.data.pictures import noise


def picture(kind: str = "JPEG", seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    noise(20, 16, seed=seed).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def stanford_dogs(folder: Path) -> None:
    """Two breeds; one image is a PNG named .jpg, and the lists are MATLAB cells."""
    names = [
        f"{breed}/{breed[:9]}_{i}.jpg"
        for breed in ("n02085620-Chihuahua", "n02105855-Shetland_sheepdog")
        for i in range(3)
    ]
    files = {
        f"Images/{name}": picture("PNG" if name.endswith("5855_2.jpg") else "JPEG", i) for i, name in enumerate(names)
    }
    write_tar(folder / "images.tar", files)
    lists = {}
    for split, own in {"train": names[:2] + names[3:5], "test": [names[2], names[5]]}.items():
        cells = np.empty((len(own), 1), dtype=object)
        cells[:, 0] = own
        buffer = io.BytesIO()
        savemat(buffer, {"file_list": cells, "labels": np.ones((len(own), 1))})
        lists[f"{split}_list.mat"] = buffer.getvalue()
    write_tar(folder / "lists.tar", lists)


def cub_200_2011(folder: Path) -> None:
    names = [f"{c}/{c}_{i}.jpg" for c in ("001.Black_footed_Albatross", "002.Laysan_Albatross") for i in range(3)]
    files = {f"CUB_200_2011/images/{name}": picture(seed=i) for i, name in enumerate(names)}
    files["CUB_200_2011/images.txt"] = "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)).encode()
    split = "".join(f"{i} {int(i % 3 != 0)}\n" for i in range(1, 7))
    files["CUB_200_2011/train_test_split.txt"] = split.encode()
    write_tar(folder / "CUB_200_2011.tgz", files)


def mit_indoor_67(folder: Path) -> None:
    """A .gif, a PNG named .jpg, a name without a known extension; lists with Windows line endings."""
    kinds = {"bar/a.jpg": "JPEG", "bar/b.gif": "GIF", "bar/c.jpg": "PNG", "attic/a.jpg": "JPEG", "attic/b_jpg": "JPEG"}
    files = {f"Images/{name}": picture(kind, i) for i, (name, kind) in enumerate(kinds.items())}
    write_tar(folder / "indoorCVPR_09.tar", files)
    (folder / "TrainImages.txt").write_bytes(b"bar/a.jpg\r\nbar/b.gif\r\nattic/b_jpg\r\n")
    (folder / "TestImages.txt").write_bytes(b"bar/c.jpg\r\nattic/a.jpg")


def caltech_256(folder: Path) -> None:
    """Image numbers up to 81, and strays: a file without extension, a nested folder, an image of another class."""
    files = {}
    for number, name in ((1, "ak47"), (257, "clutter")):
        base = f"256_ObjectCategories/{number:03}.{name}"
        files |= {f"{base}/{number:03}_{i:04}.jpg": picture(seed=i) for i in (1, 2, 10, 11, 60, 61, 80, 81)}
    files["256_ObjectCategories/001.ak47/RENAME2"] = b"mv"
    files["256_ObjectCategories/001.ak47/greg/001_0001.jpg"] = picture()
    files["256_ObjectCategories/257.clutter/001_0003.jpg"] = picture()
    write_tar(folder / "256_ObjectCategories.tar", files)


def food_101(folder: Path) -> None:
    names = [f"{dish}/{i}" for dish in ("apple_pie", "waffles") for i in range(3)]
    files = {f"food-101/images/{name}.jpg": picture(seed=i) for i, name in enumerate(names)}
    files["food-101/meta/train.txt"] = "\n".join(names[:2] + names[3:5]).encode()
    files["food-101/meta/test.txt"] = "\n".join([names[2], names[5]]).encode()
    write_tar(folder / "food-101.tar.gz", files)


GROCERIES = {
    "Fruit/Apple/Golden-Delicious": {"train": 22, "test": 2, "val": 1},
    "Packages/Juice/Bravo-Apple-Juice": {"train": 21, "test": 2, "val": 1},
    "Vegetables/Leek": {"train": 3, "test": 2, "val": 1},
    "Vegetables/Zucchini": {"train": 20, "test": 2},
}
"""Path of a class -> number of images per split: like the real data set, val lacks a class."""


def groceries(*, numbers: bool = True) -> dict[str, bytes]:
    """Files of the repository: nested classes, and lists with or without the numbers behind the paths."""
    files = {"README.md": b"", "dataset/classes.csv": b""}
    for split in ("train", "test", "val"):
        lines = []
        for label, (name, counts) in enumerate(GROCERIES.items()):
            for index in range(counts.get(split, 0), 0, -1):  # not the order of the names
                path = f"{split}/{name}/{Path(name).name}_{index:03}.jpg"
                files[f"dataset/{path}"] = picture(seed=index)
                lines.append(f"{path}, {label}, {label // 2}" if numbers else path)
        files[f"dataset/{split}.txt"] = "\n".join(lines).encode()
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def grocery_store(folder: Path) -> None:
    """As a hosting site packs it, with a root folder."""
    files = {f"GroceryStoreDataset-master/{name}": content for name, content in groceries().items()}
    write_zip(folder / "GroceryStoreDataset-master.zip", files)


MAKERS = {
    "stanford_dogs": stanford_dogs,
    "cub_200_2011": cub_200_2011,
    "mit_indoor_67": mit_indoor_67,
    "caltech_256": caltech_256,
    "food_101": food_101,
    "grocery_store": grocery_store,
}
