"""PUBLISHED: the data sets of the paper as their owners publish them, as plain data (SPEC section 6, Table 2).

No torch here, so that a config can be checked at once. How each is read is in ``prepare/readers.py``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file that the owner publishes; ``digest`` is ``sha256:...`` or ``md5:...``, empty where none is published."""

    name: str
    url: str
    digest: str = ""
    size: int = 0


@dataclass(frozen=True)
class Published:
    """A data set.

    Attributes:
        folder: its name under ``target_data_dir``, as the published configs write it.
        classes, train, test: counts of the paper's Table 2; a count of training images
            of 0 is ``classes`` times the number that the user asks for.
        archives: all files that are needed.
    """

    title: str
    folder: str
    classes: int
    train: int
    test: int
    archives: tuple[Archive, ...]


PUBLISHED: dict[str, Published] = {
    "stanford_dogs": Published(
        "Stanford Dogs",
        "Stanford_Dogs",
        classes=120,
        train=12_000,
        test=8_580,
        archives=(
            Archive(
                "images.tar",
                "http://vision.stanford.edu/aditya86/ImageNetDogs/images.tar",
                "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
                793_579_520,
            ),
            Archive(
                "lists.tar",
                "http://vision.stanford.edu/aditya86/ImageNetDogs/lists.tar",
                "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
                481_280,
            ),
        ),
    ),
    "cub_200_2011": Published(
        "CUB-200-2011",
        "CUB-200-2011",
        classes=200,
        train=5_994,
        test=5_794,
        archives=(
            Archive(
                "CUB_200_2011.tgz",
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "md5:97eceeb196236b17998738112f37df78",
                1_150_585_339,
            ),
        ),
    ),
    "mit_indoor_67": Published(
        "MIT Indoor 67",
        "MIT_Indoors_67",
        classes=67,
        train=5_360,
        test=1_340,
        archives=(
            Archive("indoorCVPR_09.tar", "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"),
            Archive("TrainImages.txt", "http://web.mit.edu/torralba/www/TrainImages.txt"),
            Archive("TestImages.txt", "http://web.mit.edu/torralba/www/TestImages.txt"),
        ),
    ),
    "caltech_256": Published(
        "Caltech-256",
        "Caltech_256-{per_class}",
        classes=257,
        train=0,
        test=5_140,
        archives=(
            Archive(
                "256_ObjectCategories.tar",
                "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
                "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
            ),
        ),
    ),
    "food_101": Published(
        "Food-101",
        "Food-101",
        classes=101,
        train=75_750,
        test=25_250,
        archives=(
            Archive(
                "food-101.tar.gz",
                "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "md5:85eeb15f3717b99a5da872d97d918f87",
                4_996_278_331,
            ),
        ),
    ),
}
