"""PUBLISHED: the data sets of the paper's Table 2 and one more, as their owners publish them.

Plain data without torch. ``preparation/readers.py`` reads the unpacked files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Archive:
    """A file that the owner publishes; ``digest`` is ``sha256:...`` or ``md5:...``, empty if none is published."""

    name: str
    url: str
    digest: str = ""
    size: int = 0


@dataclass(frozen=True)
class Published:
    """A data set.

    Attributes:
        folder: its name under ``target_data_dir`` in the published configs; the number of training images per class
            is appended, if there is one.
        classes, train, test: numbers of classes and images.
        archives: all files that are needed.
        counted_in: the source of these numbers.
        per_class: training images per class if the user sets none; 0: all.
        smallest: number of training images of the smallest class; 0: not known.
        subsets: value of ``subset`` -> the data set with the classes of this subset only.
    """

    title: str
    folder: str
    classes: int
    train: int
    test: int
    archives: tuple[Archive, ...]
    counted_in: str = "the paper's Table 2"
    per_class: int = 0
    smallest: int = 0
    subsets: Mapping[str, "Published"] = field(default_factory=dict)

    def train_images(self, per_class: int) -> int:
        """Number of training images with at most ``per_class`` of each class, or all (0); 0 if it is not known."""
        if not per_class:
            return self.train
        return self.classes * per_class if per_class <= self.smallest else 0


_DOGS_SITE, _CALTECH_SITE = "http://vision.stanford.edu/aditya86/ImageNetDogs", "https://data.caltech.edu/records"
_DOGS = (
    Archive(
        "images.tar",
        f"{_DOGS_SITE}/images.tar",
        "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
        793_579_520,
    ),
    Archive(
        "lists.tar",
        f"{_DOGS_SITE}/lists.tar",
        "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
        481_280,
    ),
)
_BIRDS = Archive(
    "CUB_200_2011.tgz",
    f"{_CALTECH_SITE}/65de6-vp158/files/CUB_200_2011.tgz",
    "md5:97eceeb196236b17998738112f37df78",
    1_150_585_339,
)
_INDOOR = (
    Archive("indoorCVPR_09.tar", "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"),
    Archive("TrainImages.txt", "http://web.mit.edu/torralba/www/TrainImages.txt"),
    Archive("TestImages.txt", "http://web.mit.edu/torralba/www/TestImages.txt"),
)
_OBJECTS = Archive(
    "256_ObjectCategories.tar",
    f"{_CALTECH_SITE}/nyy15-4j048/files/256_ObjectCategories.tar",
    "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
)
_FOOD = Archive(
    "food-101.tar.gz",
    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
    "md5:85eeb15f3717b99a5da872d97d918f87",
    4_996_278_331,
)

_GROCERIES = Published(
    "Grocery Store",
    "Grocery_Store",
    classes=81,
    train=2_640,
    test=2_485,
    archives=(
        Archive(
            "GroceryStoreDataset-master.zip",  # made at each download, so it has no digest
            "https://github.com/marcusklasson/GroceryStoreDataset/archive/refs/heads/master.zip",
        ),
    ),
    counted_in="commit fc80ba90 of its repository",
    smallest=16,
)
_PRODUCE = replace(_GROCERIES, folder="Grocery_Store-produce", classes=45, train=1_686, test=1_623, smallest=20)

PUBLISHED = {
    "stanford_dogs": Published("Stanford Dogs", "Stanford_Dogs", 120, 12_000, 8_580, _DOGS),
    "cub_200_2011": Published("CUB-200-2011", "CUB-200-2011", 200, 5_994, 5_794, (_BIRDS,)),
    "mit_indoor_67": Published("MIT Indoor 67", "MIT_Indoors_67", 67, 5_360, 1_340, _INDOOR),
    "caltech_256": Published("Caltech-256", "Caltech_256", 257, 0, 5_140, (_OBJECTS,), per_class=30, smallest=60),
    "food_101": Published("Food-101", "Food-101", 101, 75_750, 25_250, (_FOOD,)),
    "grocery_store": replace(_GROCERIES, subsets={"produce": _PRODUCE}),
}
