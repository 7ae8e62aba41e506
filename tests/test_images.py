import struct
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.encode import normalise
from clipreid_lib.data import photographs as images
from clipreid_lib.params import image_sizes

from torchvision.transforms import v2  # isort: skip


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


def test_crop_keeps_the_shape_and_the_centre_and_squash_neither(tmp_path):
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, :20, 0] = wide[:, 60:, 2] = 255  # a quarter red, a black middle, a quarter blue
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert images.decode(tmp_path / "a.png", 20, rule="crop")[:, :, 2:-2].max() == 0  # the middle alone
    squashed = images.decode(tmp_path / "a.png", 20)
    assert squashed[0, :, 0].min() == 255 and squashed[2, :, -1].min() == 255
    for size in ((20, 40), (10, 20)):  # the picture's own shape: nothing to cut off
        assert np.array_equal(
            images.decode(tmp_path / "a.png", size, rule="crop"), images.decode(tmp_path / "a.png", size)
        )
    high = images.decode(tmp_path / "a.png", (40, 10), rule="crop")  # scaled to cover, 40 x 80, then its middle
    assert high.shape == (3, 40, 10) and high.max() == 0
    assert images.decode(tmp_path / "a.png", (8, 30)).shape == (3, 8, 30)


@pytest.mark.parametrize("shape", [(37, 61), (61, 37), (50, 50), (33, 400)])
def test_a_square_crop_is_openais(tmp_path, shape):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png")
    theirs = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])(picture)
    ours = images.decode(tmp_path / "a.png", 32, rule="crop")
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGBA", "P", "LA", "I;16", "I"])
def test_other_colour_modes_keep_their_grey(tmp_path, mode):
    grey = Image.new("L", (20, 20), 90)
    if mode.startswith("I"):  # 16 bits: 90 of 255 is 90 * 257 of 65535
        deep = np.full((20, 20), 90 * 257, dtype=np.uint16 if mode == "I;16" else np.int32)
        Image.fromarray(deep).save(tmp_path / "a.tif")
    else:
        colour = grey if mode in ("L", "P") else grey.convert("RGB")  # a palette made of colour would be dithered
        colour.convert(mode).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    (file,) = tmp_path.iterdir()
    pixels = images.decode(file, 8)
    assert pixels.shape == (3, 8, 8) and abs(pixels.astype(int) - 90).max() <= 2


def test_what_is_transparent_shows_white(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert images.decode(tmp_path / "a.png", 8).min() == 255


def test_a_cmyk_jpeg_is_not_inverted(tmp_path):
    Image.new("RGB", (32, 32), (200, 40, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert abs(images.decode(tmp_path / "a.jpg", 8)[:, 4, 4].astype(int) - (200, 40, 40)).max() < 12


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="a.tif: holds more than 16 bits per channel"):
        images.decode(tmp_path / "a.tif", 8)


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


def test_sizes_are_spelt_one_way_and_read_in_several():
    for size in (224, "224", "224x224", (224, 224), [224, 224]):
        assert image_sizes.parse_size(size) == (224, 224)
    assert image_sizes.parse_size("256x128") == (256, 128)
    assert image_sizes.spell((256, 128)) == "256x128" and image_sizes.spell((224, 224)) == "224"
    for size in ("", "256*128", "0", 0, "256x0", "1x2x3", (1, 2, 3), None, 2.5):
        with pytest.raises(UserError, match=r"^image_size: .* is no size; give a side .*\(224\) or HEIGHTxWIDTH"):
            image_sizes.parse_size(size)


def test_normalise_is_the_checkpoints_arithmetic():
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    out = normalise(pixels, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    assert out[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 0.5])


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".tif", "deflated.tif", "grey.tif", "deep.tif"])
def test_every_exif_orientation_is_turned_upright_whatever_the_format_and_the_other_tags(tmp_path, turn, kind):
    upright = np.zeros((40, 60, 3), dtype=np.uint8)
    upright[:10, :15] = 255  # a white corner at the top left
    deep = Image.fromarray(upright[:, :, 0].astype(np.uint16) * 257)
    stored = {"grey.tif": Image.fromarray(upright[:, :, 0]), "deep.tif": deep}.get(kind, Image.fromarray(upright))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]  # Pillow's transpose that undoes each
    stored = stored if back is None else stored.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = turn, "odd"  # a resolution that is no number
    file, more = tmp_path / f"a{kind}", {"compression": "tiff_deflate"} if kind == "deflated.tif" else {"quality": 95}
    try:
        stored.save(file, exif=exif, **more)
    except (TypeError, ValueError):
        del exif[0x011A]
        stored.save(file, exif=exif, **more)
    pixels = images.decode(file, 40)
    assert pixels[:, :6, :6].min() > 200 and pixels[:, 20:].max() < 60 and pixels[:, :, 20:].max() < 60


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "wide.tif", "colour.png"])
def test_files_of_16_bits_that_hold_fewer_are_refused_by_name(tmp_path, bits, kind):
    deep = np.linspace(0, 2**bits - 1, 400).reshape(20, 20)
    if kind == "colour.png":  # Pillow does not write 16 bits per colour
        write_deep_png(tmp_path / kind, deep.astype(np.uint16))
    else:
        Image.fromarray(deep.astype(np.int32 if kind == "wide.tif" else np.uint16)).save(tmp_path / kind)
    if bits == 16:
        assert images.decode(tmp_path / kind, 20).max() == 255
        return
    with pytest.raises(UserError, match=rf"{kind}: is of 16 bits, .* held {bits} bits; save all .*, by one scale"):
        images.decode(tmp_path / kind, 20)


def test_a_black_image_of_16_bits_and_a_format_that_states_its_white_are_read(tmp_path):
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "a.png")
    assert images.decode(tmp_path / "a.png", 8).max() == 0
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095 " + np.full(64, 4095, dtype=">u2").tobytes())
    assert images.decode(tmp_path / "a.pgm", 8).min() == 255


def test_a_dark_picture_of_16_bits_per_pixel_is_none_of_16_per_colour(tmp_path):
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 16, 0, 128, 0, 0, 0, 0)  # a BMP of 5 bits per colour
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 182, 0, 0, 54) + header + b"\x42\x08" * 64)
    assert 0 < images.decode(tmp_path / "a.bmp", 8).max() < 64


def test_a_photograph_that_is_too_large_is_told_so_with_the_limit(tmp_path):
    Image.new("1", (20000, 10000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: is too large; at most 179 megapixels are read, save it smaller"):
        images.decode(tmp_path / "a.png", 8)


def write_deep_png(path, deep):
    """Write (H, W) uint16 as all three colours of a PNG of 16 bits per colour."""
    rows = np.repeat(deep[:, :, None], 3, axis=2).astype(">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", *deep.shape[::-1], 16, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
