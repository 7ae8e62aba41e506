"""Small pictures: open an image reduced, encode it for a web page, draw it as a framed tile with captions."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipreid_lib.errors import UnreadableImage
from clipreid_lib.images import open_rgb
from clipreid_lib.style import INK, PALE, font

FRAME, LINE = 8, 32  # px in print: a tile's coloured frame, one line of caption


def open_small(path: str | Path, side: int) -> Image.Image | str:
    """Open an image as RGB, its longest side at most ``side`` px, or say in two words why it cannot be."""
    try:
        small = open_rgb(path, side)  # upright, as the model sees it
    except UnreadableImage:
        return "file unreadable" if Path(path).exists() else "file missing"
    small.thumbnail((side, side))
    return small


def jpeg_base64(image: Image.Image) -> str:
    """Encode an image as JPEG in base64 text, without anything its own file said beside the pixels."""
    image.info.clear()  # a comment in the original would travel along otherwise
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=70, optimize=True)
    return base64.b64encode(memory.getvalue()).decode("ascii")


def fit(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Return text on one line, cut with an ellipsis where it is wider than ``width`` px."""
    text = " ".join(text.split())  # a line break would run into the next caption
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def draw_tile(
    canvas: Image.Image,
    corner: tuple[int, int],
    path: str | Path,
    side: int,
    colour: str,
    captions: Sequence[str],
    tick: bool | None = None,
) -> None:
    """Draw one tile on canvas: a framed image, captions below it and, unless tick is None, a tick or a cross.

    Args:
        canvas: drawn on in place.
        corner: left and top of the frame in px.
        path: the image; one that cannot be opened leaves a pale tile that says so.
        side: longest side of the image in px; the frame adds ``2 * FRAME``.
        colour: of the frame and of the mark.
        captions: one line each, cut to the tile's width.
        tick: True draws a tick, False a cross.
    """
    (x, y), draw, outer = corner, ImageDraw.Draw(canvas), side + 2 * FRAME
    draw.rectangle((x, y, x + outer - 1, y + outer - 1), fill=PALE, outline=colour, width=FRAME)
    image, face = open_small(path, side), font(24)
    if isinstance(image, str):
        draw.text((x + outer / 2, y + outer / 2), image, INK, face, anchor="mm")
    else:
        image = ImageOps.contain(image, (side, side))  # enlarges where the file itself is smaller
        canvas.paste(image, (x + (outer - image.width) // 2, y + (outer - image.height) // 2))
    if tick is not None:
        draw.rectangle((x, y, x + 47, y + 47), fill=colour)
        strokes = [[(12, 24), (20, 32), (36, 12)]] if tick else [[(14, 14), (32, 32)], [(32, 14), (14, 32)]]
        for stroke in strokes:
            draw.line([(x + dx, y + dy) for dx, dy in stroke], fill="white", width=6, joint="curve")
    for number, text in enumerate(captions):
        draw.text((x, y + outer + 8 + number * LINE), fit(text, face, outer), INK, face)
