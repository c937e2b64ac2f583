"""Preprocessing and augmentation of section 5.1 of the paper: pixels of an image -> inputs of the network.

The deterministic steps before the first random one are applied once per image. Their result is a *canvas*:
8-bit pixels of a fixed shape. The random numbers of an epoch are drawn at once, for all images, from
(seed, epoch) alone: no pixel depends on the number of processes, or on where an epoch was resumed.
Crop, flip and the conversion to floats process batches, on their device.

Dimensions: B images, V views per image, R side of the resized image, S side of the network's
input. Colours are in the order R, G, B.
"""

import functools
import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor

from afa.data.images import GREY_RANGE, MAX_PIXELS, to_rgb

AUGMENTATIONS = ("default", "improved")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resize_side(image_size: int) -> int:
    """Side in pixels of the resized image, from which ``image_size`` is cropped: 256 for 224, 320 for 299."""
    return 320 if image_size == 299 else round(image_size * 8 / 7)  # 320: the paper's exception, instead of 342


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic steps of one augmentation.

    ``default`` resizes the image to a square; ``improved`` keeps its aspect ratio and tests on ten crops.
    ``background`` and ``grey_range``: see ``to_rgb``.
    """

    image_size: int
    augmentation: str = "default"
    background: str = field(default="", repr=False)
    grey_range: str = field(default=GREY_RANGE, repr=False)

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"unknown augmentation '{self.augmentation}' (known: {', '.join(AUGMENTATIONS)})")

    @property
    def recipe(self) -> str:
        """Everything that the pixels of a canvas depend on, except the image."""
        colours = (self.background, self.grey_range)
        return f"{self}, {', '.join(colours)}" if colours != ("", GREY_RANGE) else str(self)  # names existing files

    @property
    def views(self) -> int:
        """Number of views of a test image whose logits are averaged: 1 or 10."""
        return 10 if self.augmentation == "improved" else 1

    def train_canvas(self, image: Image.Image) -> np.ndarray:
        """Image -> uint8 (R, R, 3). Raises ValueError as ``to_rgb``, and if ``improved`` would make it too large."""
        resized = self._resize(image)
        if self.augmentation == "improved":
            # The paper flips before this crop. If the crop removes an odd number of columns, its result for a flipped
            # image is shifted by one column.
            resized = TF.center_crop(resized, [resize_side(self.image_size)])
        return np.array(resized)

    def test_canvas(self, image: Image.Image) -> np.ndarray:
        """Image -> uint8 (V, S, S, 3): the centre, or four corners and the centre; raises as ``train_canvas``."""
        resized, size = self._resize(image), [self.image_size, self.image_size]
        if self.augmentation == "improved":
            return np.stack([np.asarray(crop) for crop in TF.five_crop(resized, size)])
        return np.array(TF.center_crop(resized, size))[None]

    def _resize(self, image: Image.Image) -> Image.Image:
        image, side = to_rgb(image, self.background, self.grey_range), resize_side(self.image_size)
        if self.augmentation != "improved":
            return TF.resize(image, [side, side])
        if side * side * max(image.size) > MAX_PIXELS * min(image.size):
            shape = f"{image.width} x {image.height} pixels"
            raise ValueError(f"{shape}: too large after resizing the short side to {side}; crop the image")
        return TF.resize(image, [side])


class Draws(NamedTuple):
    """Random numbers of one epoch, an entry per image: crop offsets in pixels (int64), flip (bool)."""

    top: Tensor
    left: Tensor
    flip: Tensor


def draw_augmentation(seed: int, epoch: int, count: int, preprocessing: Preprocessing) -> Draws:
    """Draws of ``epoch`` for ``count`` images: a pure function of the arguments."""
    generator = _generator("augmentation", seed, epoch)
    offsets = resize_side(preprocessing.image_size) - preprocessing.image_size + 1
    top, left = torch.randint(offsets, (2, count), generator=generator)
    return Draws(top, left, flip=torch.randint(2, (count,), generator=generator).bool())


def draw_order(seed: int, epoch: int, count: int) -> Tensor:
    """Order of the images in ``epoch``, a permutation (count,), int64: a pure function of the arguments."""
    return torch.randperm(count, generator=_generator("order", seed, epoch))


def _generator(stream: str, seed: int, epoch: int) -> torch.Generator:
    # Hashed: with seed + epoch, epoch 1 of seed 1 would equal epoch 0 of seed 2, and repeats would not be independent.
    digest = hashlib.sha256(f"{stream}/{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def augment(canvases: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int, rows: Tensor | None = None) -> Tensor:
    """Flip and crop each image by its own draws: uint8 (N, R, R, 3) -> uint8 (B, 3, S, S), channels last in memory.

    Args:
        top, left, flip: (B,), on the device of ``canvases``; the offsets refer to the flipped image.
        size: S, side of the crop.
        rows: (B,), the row in ``canvases`` of each image; None: all rows in order.
    """
    if rows is None:
        rows = torch.arange(len(canvases), device=canvases.device)
    crop = _crop_by_copies if canvases.device.type == "cpu" else _crop_by_index
    return crop(canvases, rows, top, left, flip, size).permute(0, 3, 1, 2)


def _crop_by_copies(canvases: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int) -> Tensor:
    """(B, S, S, 3) on a CPU, where copying rows takes a fifth of the time of indexing pixels."""
    crops = canvases.new_empty(len(rows), size, size, 3)
    side = canvases.shape[2]
    draws = zip(rows.tolist(), top.tolist(), left.tolist(), flip.tolist(), strict=True)
    for crop, (row, first_row, first_column, flipped) in zip(crops, draws, strict=True):
        column = side - size - first_column if flipped else first_column
        pixels = canvases[row, first_row : first_row + size, column : column + size]
        crop.copy_(pixels.flip(1) if flipped else pixels)
    return crops


def _crop_by_index(canvases: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int) -> Tensor:
    """(B, S, S, 3) on a GPU, without a loop over the images."""
    side, steps = canvases.shape[2], torch.arange(size, device=canvases.device)
    lines, columns = top[:, None] + steps, left[:, None] + steps  # (B, S)
    columns = torch.where(flip[:, None], side - 1 - columns, columns)
    pixels = (side * side * rows)[:, None, None] + side * lines[:, :, None] + columns[:, None, :]  # (B, S, S)
    return canvases.reshape(-1, 3).index_select(0, pixels.flatten()).view(*pixels.shape, 3)


def test_views(canvases: Tensor, augmentation: str) -> Tensor:
    """uint8 (B, V, S, S, 3) test canvases -> uint8 (B * 1 or B * 10, 3, S, S) views, channels last in memory.

    The views of one image are consecutive. ``improved`` adds mirrored views, in the order of torchvision's TenCrop.
    """
    if augmentation == "improved":
        # A left corner of the mirrored image is a mirrored right corner. If width - S is odd, TenCrop's
        # mirrored centre is one column off this one: TenCrop rounds to the left in both images.
        mirrored = canvases[:, [1, 0, 3, 2, 4]].flip(3)
        canvases = torch.cat([canvases, mirrored], dim=1)  # (B, 10, S, S, 3)
    return canvases.flatten(0, 1).permute(0, 3, 1, 2)


def normalise(images: Tensor) -> Tensor:
    """Normalise with ImageNet's mean and standard deviation: uint8 (B, 3, S, S) -> float32 (B, 3, S, S), channels last.

    The result is bit-identical to torchvision's ToTensor and Normalize.
    """
    pixels = images.permute(0, 2, 3, 1)  # the order in memory
    scale, mean, std = _statistics(pixels.shape[1:], images.device)
    floats = torch.empty(pixels.shape, device=images.device)
    # On a CPU one image at a time, so that it stays in the processor's cache.
    at_once = 1 if images.device.type == "cpu" else max(len(pixels), 1)
    for result, values in zip(floats.split(at_once), pixels.split(at_once), strict=True):
        result.copy_(values).div_(scale).sub_(mean).div_(std)
    return floats.permute(0, 3, 1, 2)


@functools.cache
def _statistics(shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """255, mean and standard deviation, each expanded to the (H, W, 3) values of an image."""
    # Expanded, because a loop over three colours is three times slower on a CPU. 255 is a tensor, because
    # CUDA replaces a division by a Python number by a multiplication with its rounded inverse.
    constants = torch.tensor([(255.0,) * 3, IMAGENET_MEAN, IMAGENET_STD], dtype=torch.float32, device=device)
    scale, mean, std = (constant.expand(shape).contiguous() for constant in constants)
    return scale, mean, std
