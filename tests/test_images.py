import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipreid_lib import augment, images
from clipreid_lib.errors import UserError


def test_the_whole_picture_is_squashed_and_exif_rotation_applied(tmp_path):
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, :40, 0] = 255  # left half red
    wide[:, 40:, 2] = 255  # right half blue
    Image.fromarray(wide).save(tmp_path / "plain.png")
    pixels = images.decode(tmp_path / "plain.png", 16)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8
    assert pixels[0, :, :6].mean() > 250 and pixels[2, :, 10:].mean() > 250

    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was held upside down
    Image.fromarray(wide).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = images.decode(tmp_path / "turned.jpg", 16)
    assert turned[2, :, :6].mean() > 200 and turned[0, :, 10:].mean() > 200


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGBA", "P", "I;16"])
def test_other_colour_modes_are_read_as_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    picture = Image.new("L", (20, 20), 90) if mode in ("I;16", "P") else Image.new(mode, (20, 20))
    picture.convert(mode).save(tmp_path / f"a.{suffix}")
    assert images.decode(tmp_path / f"a.{suffix}", 8).shape == (3, 8, 8)


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.effect_noise((200, 200), 80).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    for name, message in (
        ("text.jpg", "is not an image"),
        ("cut.jpg", "is not an image"),
        ("no.jpg", "not found"),
    ):
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            images.Photographs(tmp_path).load(pd.DataFrame({"path": [name]}), 8)


def test_augmentation_follows_the_seed_and_treats_each_image_alone():
    batch = torch.rand(6, 3, 32, 32)
    spoil = augment.Augment(32)
    outcomes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outcomes.append(spoil(batch))
    assert torch.equal(outcomes[0], outcomes[1]) and not torch.equal(outcomes[0], outcomes[2])
    same = spoil(batch[:1].expand(6, -1, -1, -1))
    assert any(not torch.equal(same[0], other) for other in same[1:])


def test_normalise_is_the_checkpoints_arithmetic():
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    out = augment.normalise(pixels, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    assert out[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 0.5])
