"""All pixels and floats are bit-identical to those of torchvision's transforms on Pillow images."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor

from afa.data import transforms
from afa.data.transforms import Draws, Preprocessing, augment, draw_augmentation, draw_order, normalise, resize_side
from tests.data.pictures import noise

SIZES = [(500, 375), (375, 500), (31, 22), (40, 40), (301, 37)]
TO_INPUT = T.Compose([T.ToTensor(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])


def augmented(preprocessing: Preprocessing, pictures: list[Image.Image], draws: Draws) -> Tensor:
    canvases = torch.from_numpy(np.stack([preprocessing.train_canvas(picture) for picture in pictures]))
    return normalise(augment(canvases, *draws, size=preprocessing.image_size))


def views(preprocessing: Preprocessing, picture: Image.Image) -> Tensor:
    canvases = torch.from_numpy(preprocessing.test_canvas(picture))[None]
    return normalise(transforms.test_views(canvases, preprocessing.augmentation))


@pytest.mark.parametrize(("image_size", "side"), [(224, 256), (299, 320), (32, 37), (448, 512)])
def test_resize_side(image_size: int, side: int) -> None:
    assert resize_side(image_size) == side


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'improvd'"):
        Preprocessing(224, "improvd")


@pytest.mark.parametrize("image_size", [32, 224, 299])
def test_default_training_images(image_size: int) -> None:
    preprocessing, side = Preprocessing(image_size), resize_side(image_size)
    pictures = [noise(*size) for size in SIZES * 2]
    draws = draw_augmentation(1, 0, len(pictures), preprocessing)
    assert 0 < draws.flip.sum() < len(pictures)
    actual = augmented(preprocessing, pictures, draws)
    for own, picture, top, left, flip in zip(actual, pictures, *draws, strict=True):
        usual = T.Resize((side, side))(picture)
        usual = TF.hflip(usual) if flip else usual
        assert torch.equal(own, TO_INPUT(TF.crop(usual, int(top), int(left), image_size, image_size)))
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(80, 37), (81, 74), (75, 37), (76, 37), (20, 21)])
def test_improved_training_images(size: tuple[int, int]) -> None:
    preprocessing, side = Preprocessing(32, "improved"), resize_side(32)
    picture = noise(*size)
    width = T.Resize(side)(picture).width
    for flip in (False, True):
        left = 2
        (own,) = augmented(
            preprocessing, [picture], Draws(torch.tensor([3]), torch.tensor([left]), torch.tensor([flip]))
        )
        usual = T.CenterCrop(side)(TF.hflip(T.Resize(side)(picture)) if flip else T.Resize(side)(picture))
        # This program crops before it flips: a difference of one column if an odd number is cut off.
        shift = flip * (width - side - 2 * round((width - side) / 2))
        assert torch.equal(own, TO_INPUT(TF.crop(usual, 3, left + shift, 32, 32)))


@pytest.mark.parametrize("image_size", [32, 224, 299])
@pytest.mark.parametrize("size", SIZES)
def test_default_test_image(size: tuple[int, int], image_size: int) -> None:
    side = resize_side(image_size)
    usual = T.Compose([T.Resize((side, side)), T.CenterCrop(image_size), TO_INPUT])
    actual = views(Preprocessing(image_size), noise(*size))
    assert torch.equal(actual, usual(noise(*size))[None])


@pytest.mark.parametrize("size", [(80, 36), (36, 80), (81, 36), (50, 50)])
def test_improved_test_image(size: tuple[int, int]) -> None:
    preprocessing, side = Preprocessing(32, "improved"), resize_side(32)
    resized = T.Resize(side)(noise(*size))
    expected = [TO_INPUT(crop) for crop in T.TenCrop(32)(resized)]
    actual = views(preprocessing, noise(*size))
    assert len(actual) == preprocessing.views == 10
    for index in range(9):
        assert torch.equal(actual[index], expected[index]), index
    if (resized.width - 32) % 2 == 0:
        assert torch.equal(actual[9], expected[9])
    else:  # the mirrored centre is one column off
        assert torch.equal(actual[9], TO_INPUT(TF.hflip(T.CenterCrop(32)(resized))))


def test_views_of_one_image_are_consecutive() -> None:
    pictures = [noise(50, 60, seed=seed) for seed in range(3)]
    preprocessing = Preprocessing(32, "improved")
    canvases = torch.from_numpy(np.stack([preprocessing.test_canvas(picture) for picture in pictures]))
    together = normalise(transforms.test_views(canvases, "improved"))
    assert torch.equal(together, torch.cat([views(preprocessing, picture) for picture in pictures]))


def test_each_of_the_256_values_is_normalised_as_by_torchvision() -> None:
    values = np.arange(256, dtype=np.uint8)
    picture = np.stack([values, values[::-1], np.roll(values, 7)], axis=-1)[None]  # (1, 256, 3)
    actual = normalise(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
    assert torch.equal(actual[0], TO_INPUT(Image.fromarray(picture)))


def test_draws_are_uniform_over_their_range() -> None:
    draws = draw_augmentation(1, 0, 20_000, Preprocessing(224))
    for offsets in (draws.top, draws.left):
        counts = torch.bincount(offsets, minlength=33)
        assert len(counts) == 33
        assert counts.min() > 450  # 606 expected, standard deviation 24
        assert counts.max() < 770
    assert abs(draws.flip.float().mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(torch.stack([entry.float() for entry in draws])) - torch.eye(3)).max() < 0.04


def test_draws_are_a_pure_function_of_seed_and_epoch() -> None:
    def drawn(seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        return torch.cat(list(draw_augmentation(seed, epoch, 50, Preprocessing(224)))), draw_order(seed, epoch, 50)

    state = torch.get_rng_state()
    for own, again in zip(drawn(3, 4), drawn(3, 4), strict=True):
        assert torch.equal(own, again)
    assert torch.equal(state, torch.get_rng_state())
    assert sorted(draw_order(3, 4, 50).tolist()) == list(range(50))
    for other in ((3, 5), (4, 4), (4, 3), (2, 5), (34, 0)):
        for own, others in zip(drawn(3, 4), drawn(*other), strict=True):
            assert not torch.equal(own, others), other


def test_order_and_augmentation_have_independent_generators() -> None:
    names = [(stream, seed, epoch) for stream in ("order", "augmentation") for seed in (1, 2) for epoch in range(50)]
    assert len({transforms._generator(*name).initial_seed() for name in names}) == 200


def test_an_image_that_is_too_long_for_its_height_is_refused() -> None:
    ribbon = Image.new("RGB", (60_000, 2))
    assert Preprocessing(224).train_canvas(ribbon).shape == (256, 256, 3)
    for make_canvas in (Preprocessing(224, "improved").train_canvas, Preprocessing(224, "improved").test_canvas):
        with pytest.raises(
            ValueError, match="60000 x 2 pixels: too large after resizing the short side to 256; crop the image"
        ):
            make_canvas(ribbon)


def test_the_crops_of_gpu_and_cpu_are_identical() -> None:
    draws = draw_augmentation(3, 1, 40, Preprocessing(32))
    canvases = torch.randint(256, (40, 37, 37, 3), dtype=torch.uint8)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    by_index, by_copies = (
        crop(canvases, rows, *draws, size=32) for crop in (transforms._crop_by_index, transforms._crop_by_copies)
    )
    assert torch.equal(by_index, by_copies)
    assert torch.equal(by_copies, transforms._crop_by_copies(canvases[rows], torch.arange(40), *draws, size=32))
