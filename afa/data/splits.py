"""The splits of a run: image folders with, if they are kept in memory or on disk, their decoded pixels."""

from dataclasses import dataclass

import numpy as np

from afa.data.folders import ImageFolder


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        canvases: uint8 (M, ...), see ``data/transforms.py``; None: the images are decoded at each use.
        rows: (N,), the row in ``canvases`` of each of the N images; None: they have the order of the folder.
    """

    folder: ImageFolder
    canvases: np.ndarray | None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Splits:
    """Splits of one repeat.

    Attributes:
        monitor: evaluated after each epoch: held-out training images or, as in the paper's code, the test images.
        selected_on: ``held_out`` or ``test``, the name of ``monitor``.
    """

    train: Split
    monitor: Split
    test: Split
    selected_on: str
