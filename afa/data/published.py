"""PUBLISHED: the data sets of the paper's Table 2, as their owners publish them.

Plain data without torch. ``preparation/readers.py`` reads the unpacked files.
"""

from dataclasses import dataclass


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
        folder: its name under ``target_data_dir`` in the published configs.
        classes, train, test: numbers of classes and images in the paper's Table 2. If ``train``
            is 0, there are ``classes`` times as many training images as the user requests per class.
        archives: all files that are needed.
    """

    title: str
    folder: str
    classes: int
    train: int
    test: int
    archives: tuple[Archive, ...]


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

PUBLISHED = {
    "stanford_dogs": Published("Stanford Dogs", "Stanford_Dogs", 120, 12_000, 8_580, _DOGS),
    "cub_200_2011": Published("CUB-200-2011", "CUB-200-2011", 200, 5_994, 5_794, (_BIRDS,)),
    "mit_indoor_67": Published("MIT Indoor 67", "MIT_Indoors_67", 67, 5_360, 1_340, _INDOOR),
    "caltech_256": Published("Caltech-256", "Caltech_256-{per_class}", 257, 0, 5_140, (_OBJECTS,)),
    "food_101": Published("Food-101", "Food-101", 101, 75_750, 25_250, (_FOOD,)),
}
