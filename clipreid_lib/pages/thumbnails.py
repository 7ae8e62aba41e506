"""Small pictures: open an image reduced, encode it for a web page, frame it, and fit text below it."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clipreid_lib.base.errors import UnreadableImage
from clipreid_lib.data.photographs import open_rgb
from clipreid_lib.pages.style import INK, PALE, font

FRAME, LINE = 8, 32  # px in print: a tile's coloured frame, one line of caption


def open_small(path: str | Path, side: int) -> Image.Image | str:
    """Open an image as RGB in its own shape, its longest side at most ``side`` px, or say in two words why not."""
    try:
        small = open_rgb(path, side)
    except UnreadableImage:
        return explain_missing(path)
    small.thumbnail((side, side))
    return small


def explain_missing(path: str | Path) -> str:
    """Say in two words why an image cannot be opened."""
    return "file unreadable" if Path(path).exists() else "file missing"


def to_jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG, without anything its own file said beside the pixels."""
    image.info.clear()  # a comment in the original would travel along otherwise
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=70, optimize=True)
    return memory.getvalue()


def fit(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Return text on one line, cut with an ellipsis where it is wider than ``width`` px."""
    text = " ".join(text.split())  # a line break would run into the next caption
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break text between words into lines of at most ``width`` px; a word that is wider stands alone."""
    first, *words = text.split() or [""]
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_frame(
    canvas: Image.Image,
    corner: tuple[int, int],
    image: Image.Image | str,
    size: tuple[int, int],
    colour: str,
    tick: bool | None = None,
) -> None:
    """Draw a framed image, or a pale tile with the words that stand for it; on it a tick (True) or a cross (False).

    ``corner`` is left and top of the frame in px, ``size`` width and height inside it, which the image must not exceed.
    """
    (x, y), (width, height), draw = corner, size, ImageDraw.Draw(canvas)
    right, bottom = x + width + 2 * FRAME, y + height + 2 * FRAME
    draw.rectangle((x, y, right - 1, bottom - 1), fill=PALE, outline=colour, width=FRAME)
    if isinstance(image, str):
        text = "\n".join(wrap(image, font(24), width - LINE))
        draw.text(((x + right) / 2, (y + bottom) / 2), text, INK, font(24), anchor="mm", align="center")
    else:
        canvas.paste(image, ((x + right - image.width) // 2, (y + bottom - image.height) // 2))
    if tick is not None:
        draw.rectangle((x, y, x + 47, y + 47), fill=colour)
        strokes = [[(12, 24), (20, 32), (36, 12)]] if tick else [[(14, 14), (32, 32)], [(32, 14), (14, 32)]]
        for stroke in strokes:
            draw.line([(x + dx, y + dy) for dx, dy in stroke], fill="white", width=6, joint="curve")


def draw_captions(canvas: Image.Image, corner: tuple[int, int], captions: list[str], width: int) -> None:
    """Write lines below one another, each cut to ``width`` px, from a corner (left, top) on."""
    draw, face = ImageDraw.Draw(canvas), font(24, text="".join(captions))
    for number, text in enumerate(captions):
        draw.text((corner[0], corner[1] + number * LINE), fit(text, face, width), INK, face)
