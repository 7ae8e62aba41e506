import pytest
import torch

from clipreid_lib.base import import_fixes  # noqa: F401  before torchvision
from clipreid_lib.clip.encode import normalise
from clipreid_lib.method.augment import Augment, enlarge

from torchvision.transforms import v2  # isort: skip

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def photographs(count, height, width):
    torch.manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def augment_one_by_one(pixels, size, **pads):
    """The plain way: each image alone through torchvision's transforms."""
    crop = v2.RandomCrop(size, padding=max(2, round(max(size) * 10 / 256)), **pads)
    erase = v2.RandomErasing(p=0.5, value=0)
    return torch.stack([erase(crop(image)) for image in pixels])


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (64, 32)])
def test_a_batch_at_once_is_the_images_one_by_one_bit_by_bit(size):
    pixels = photographs(40, *size)
    for seed in range(3):
        torch.manual_seed(seed)
        ours = Augment(size, MEAN, STD)(pixels)
        after = torch.rand(1)
        torch.manual_seed(seed)
        expected = augment_one_by_one(normalise(pixels, MEAN, STD), size, padding_mode="edge")
        assert torch.equal(ours, expected) and ours.is_contiguous()
        assert torch.equal(after, torch.rand(1))  # as many draws, so that what follows is the same too


def test_black_padding_is_black_before_it_is_normalised():
    pixels = photographs(20, 32, 32)
    torch.manual_seed(1)
    ours = Augment(32, MEAN, STD, padding="black")(pixels)
    torch.manual_seed(1)
    crop, erase = v2.RandomCrop(32, padding=2, fill=0), v2.RandomErasing(p=0.5, value=0)
    # crop and erasure of each image are drawn together, so the images go through both one by one
    expected = torch.stack([erase(normalise(crop(image)[None], MEAN, STD)[0]) for image in pixels])
    assert torch.equal(ours, expected)


def test_half_of_the_images_are_flipped_only_if_asked():
    pixels = photographs(1, 32, 32).expand(400, -1, -1, -1)
    augment = Augment(32, MEAN, STD, flip=True)
    augment.pad = 0  # every crop is the whole image, so that a flip can be recognised
    torch.manual_seed(0)
    seen = augment(pixels)
    straight, mirrored = normalise(pixels[:1], MEAN, STD), normalise(pixels[:1].flip(3), MEAN, STD)
    whole = (seen != 0).all(dim=(1, 2, 3))  # nothing was erased
    flipped = sum(torch.equal(image, mirrored[0]) for image in seen[whole])
    assert flipped + sum(torch.equal(image, straight[0]) for image in seen[whole]) == int(whole.sum())
    assert 0.4 < flipped / int(whole.sum()) < 0.6


def test_noise_stands_where_the_mean_would_stand():
    pixels = photographs(60, 64, 64)
    torch.manual_seed(3)
    mean, noisy = Augment(64, MEAN, STD), Augment(64, MEAN, STD, erase="noise")
    mean.area, mean._log_ratio = noisy.area, noisy._log_ratio  # timm's rectangles are a little larger
    mean = mean(pixels)
    torch.manual_seed(3)
    noise = noisy(pixels)
    erased = (mean == 0).all(dim=1, keepdim=True).expand_as(mean)
    assert 0.05 < float(erased.float().mean()) < 0.15  # half the images, a sixth of each
    assert torch.equal(noise[~erased], mean[~erased])
    assert abs(float(noise[erased].mean())) < 0.02 and abs(float(noise[erased].std()) - 1) < 0.02


def test_pixels_to_pad_follow_the_longer_side():
    assert Augment((256, 128), MEAN, STD).pad == Augment(256, MEAN, STD).pad == 10  # CLIP-ReID's, on all sides


def test_enlarged_images_are_cropped_and_nothing_is_padded_or_erased():
    assert enlarge(224) == (256, 256)  # CLIP-HandID's
    pixels = photographs(30, *enlarge((64, 32)))
    torch.manual_seed(0)
    seen = Augment((64, 32), MEAN, STD, flip=True, padding="enlarge", erase="none")(pixels)
    places = set()
    for image, whole in zip(seen, normalise(pixels, MEAN, STD), strict=True):
        cuts = {(top, left): whole[:, top : top + 64, left : left + 32] for top in range(10) for left in range(6)}
        ways = {(*place, way): cut.flip(2) if way else cut for place, cut in cuts.items() for way in (False, True)}
        (found,) = [place for place, cut in ways.items() if torch.equal(image, cut)]
        places.add(found)
    assert len({top for top, _, _ in places}) > 5 and len({flip for _, _, flip in places}) == 2
