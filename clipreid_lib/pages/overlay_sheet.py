"""Looks as a sheet: photographs, heat over them and lines between alike places, one row per pair of images.

Every photograph is shown as the model gets it, squashed or cropped to its input size, so that maps lie where they
belong. Right and wrong carry a tick or a cross, lines carry numbers: colour is never the only sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import matplotlib
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageColor, ImageDraw, ImageOps

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.pages import attention, correspondence
from clipreid_lib.pages.attention import Heat
from clipreid_lib.pages.ranking import Tile, called, spoken
from clipreid_lib.pages.style import INK, RIGHT, WRONG, font
from clipreid_lib.pages.thumbnails import FRAME, LINE, draw_frame, fit, wrapped

WIDEST, TALLEST = 384, 576  # px in print: limits of a photograph
GAP, BETWEEN, HEAD = 20, 88, 64  # around things, between the photographs that lines join, and above each row
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff")  # Okabe and Ito
OPACITY = 0.7  # of the hottest place
DOT = 16  # px in print, radius of a line's numbered end
DROP = 3 * LINE  # how much lower the second of the joined photographs hangs: lines within a row would hide one another


@dataclass(frozen=True)
class Look:
    """One query and one gallery image, and what the model makes of the two.

    Attributes:
        query: the query's row of its table.
        match: the gallery image's row.
        tile: the gallery image's rank and score, and whether it is right.
        query_pixels: (3, H, W) uint8, as the model gets it; in two words why there are none.
        match_pixels: the gallery image's.
        heat: maps of this one query and match; None where a photograph is missing.
        alike: pairs of alike places, from :func:`clipreid_lib.pages.correspondence.alike_places`; None likewise.
        grid: (rows, columns) of those places; None likewise.
    """

    query: pd.Series
    match: pd.Series
    tile: Tile
    query_pixels: torch.Tensor | str
    match_pixels: torch.Tensor | str
    heat: Heat | None = None
    alike: pd.DataFrame | None = None
    grid: tuple[int, int] | None = None


def sheet(clip: Backbone, looks: Sequence[Look]) -> Image.Image:
    """Draw looks below one another, and one legend below all.

    Args:
        clip: the backbone that looked.
        looks: at least one.

    Returns:
        An RGB image. Where a photograph is missing, pale tiles say so.
    """
    size, face = _tile_size(clip), font(24)
    wide, high = (side + 2 * FRAME for side in size)
    # left edges of the query's and the match's tile, for photographs, heat and lines
    lefts = np.cumsum([2 * GAP, wide + GAP, wide + 3 * GAP, wide + GAP, wide + 3 * GAP, wide + BETWEEN]).tolist()
    width = lefts[-1] + wide + 2 * GAP
    captions = [_captions(each) for each in looks]
    heights = [HEAD + high + 8 + LINE * max(3, *map(len, both)) + GAP for both in captions]
    tops = np.cumsum([0, *heights]).tolist()
    legend = [line for text in _legend(clip, looks) for line in wrapped(text, face, width - 4 * GAP)]
    canvas = Image.new("RGB", (width, tops[-1] + 2 * GAP + LINE * len(legend)), "white")
    draw = ImageDraw.Draw(canvas)
    for y in tops:
        draw.line((GAP, y, width - GAP, y), fill="#cccccc", width=2)
    for each, both, y in zip(looks, captions, tops, strict=False):
        corners = [(x, y + HEAD) for x in lefts]
        corners[-1] = (lefts[-1], y + HEAD + DROP)
        photographs = [_photograph(pixels, size) for pixels in (each.query_pixels, each.match_pixels)]
        frames = [INK, RIGHT if each.tile.right else WRONG]
        missing = next((each for each in photographs if isinstance(each, str)), None)
        heat = cast(Heat, each.heat)  # not there where a photograph is missing
        heated = [f"no map: {missing}"] * 2 if missing else _heated(clip, heat, cast(list[Image.Image], photographs))
        unlined = [f"no lines: {missing}"] * 2 if missing else photographs
        ticks = [None, each.tile.right, *4 * [None]]
        for corner, image, frame, tick in zip(
            corners, [*photographs, *heated, *unlined], frames * 3, ticks, strict=True
        ):
            draw_frame(canvas, corner, image, size, frame, tick)
        for corner, lines in zip(corners, both, strict=False):
            for number, line in enumerate(lines):
                draw.text((corner[0], corner[1] + high + 8 + number * LINE), fit(line, face, wide), INK, face)
        titles = ["the photographs, as the model gets them", "", ""]
        if not missing:
            titles[1:] = [_heat_title(heat), _alike_title(each.alike)]
            _draw_bar(canvas, (corners[2][0], y + HEAD + high + 8), 2 * wide + GAP, heat)
            _draw_lines(draw, corners[4:], size, clip, each)
        for title, corner, span in zip(titles, corners[::2], (GAP, GAP, BETWEEN), strict=True):
            bold = font(26, bold=True)
            draw.text((corner[0], y + 16), fit(title, bold, 2 * wide + span), INK, bold)
    for number, line in enumerate(legend):
        draw.text((2 * GAP, tops[-1] + GAP + number * LINE), line, INK, face)
    return canvas


def over(
    photograph: Image.Image, heat: np.ndarray, centres: tuple[np.ndarray, np.ndarray], ends: tuple[float, float]
) -> Image.Image:
    """Lay a heat map over a photograph, which turns grey so that colour means heat alone; cold places stay clear.

    Args:
        photograph: of any size, RGB.
        heat: (gh, gw).
        centres: where its places lie, from :func:`clipreid_lib.pages.attention.centres`.
        ends: the value without colour, and that of the strongest.
    """
    width, height = photograph.size
    down, across = (_weights(each, pixels) for each, pixels in zip(centres, (height, width), strict=True))
    smooth = down @ heat @ across.T  # (height, width)
    share = (smooth - ends[0]) / max(ends[1] - ends[0], 1e-12)
    return _coloured(np.asarray(ImageOps.grayscale(photograph)), share.clip(0, 1))


def _tile_size(clip: Backbone) -> tuple[int, int]:
    height, width = clip.image_size
    scale = min(WIDEST / width, TALLEST / height)
    return round(width * scale), round(height * scale)


def _captions(each: Look) -> tuple[list[str], list[str]]:
    tile = each.tile
    verdict = [f"rank {tile.rank}, {'right' if tile.right else 'wrong'}", f"score {tile.score:.3f}"]
    known = tile.note.splitlines() or [spoken(each.match["aspect"])]
    return (
        ["query", called(each.query), spoken(each.query["aspect"])],
        [*verdict, called(each.match), *known],
    )


def _photograph(pixels: torch.Tensor | str, size: tuple[int, int]) -> Image.Image | str:
    if isinstance(pixels, str):
        return pixels
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).resize(size, Image.Resampling.BICUBIC)


def _shown(heat: Heat) -> tuple[np.ndarray, np.ndarray, tuple[float, float], tuple[str, str]]:
    """Return both maps in the unit they are shown in, the two ends of the colours, and what stands below those."""
    query, match = (each[0].numpy() for each in (heat.query, heat.match))
    if heat.method == "Grad-CAM":
        return query, match, (0.0, 1.0), ("0", "each map's maximum")
    query, match = (each * each.size for each in (query, match))  # shares become multiples of an even share
    low, high = min(query.min(), match.min()), max(query.max(), match.max())
    return query, match, (low, high), (f"{low:.1f}", f"{high:.1f} times an even share")


def _heated(clip: Backbone, heat: Heat, photographs: Sequence[Image.Image]) -> list[Image.Image]:
    query, match, ends, _ = _shown(heat)
    where = attention.centres(clip, (query.shape[0], query.shape[1]))
    return [over(image, each, where, ends) for image, each in zip(photographs, (query, match), strict=True)]


def _heat_title(heat: Heat) -> str:
    return f"Grad-CAM of their cosine, {float(heat.cosine[0]):.3f}" if heat.method == "Grad-CAM" else heat.method


def _alike_title(alike: pd.DataFrame) -> str:
    if alike.empty:
        return "alike places: none found"
    best, last = alike["cosine"].iloc[0], alike["cosine"].iloc[-1]
    return f"alike places: {len(alike)}, cosine {best:.2f} to {last:.2f}"


def _draw_bar(canvas: Image.Image, corner: tuple[int, int], width: int, heat: Heat) -> None:
    *_, (low, high) = _shown(heat)
    (x, y), draw, face = corner, ImageDraw.Draw(canvas), font(24)
    grey = np.full((24, width), 160, np.uint8)  # as a hand's skin turns out
    canvas.paste(_coloured(grey, np.linspace(0, 1, width)[None].repeat(24, axis=0)), (x, y + 4))
    draw.text((x, y + LINE), low, INK, face)
    draw.text((x + width, y + LINE), high, INK, face, anchor="ra")


def _draw_lines(
    draw: ImageDraw.ImageDraw, corners: Sequence[tuple[int, int]], size: tuple[int, int], clip: Backbone, each: Look
) -> None:
    assert each.grid is not None and each.alike is not None  # both photographs are there
    down, across = attention.centres(clip, each.grid)
    lines = []
    for places in each.alike[correspondence.COLUMNS[:4]].to_numpy().reshape(-1, 2, 2):  # (row, column) of either end
        both = zip(corners, places, strict=True)
        lines.append([(x + FRAME + across[c] * size[0], y + FRAME + down[r] * size[1]) for (x, y), (r, c) in both])
    numbered = list(zip(range(1, len(lines) + 1), lines, COLOURS * len(lines), strict=False))[::-1]  # best comes on top
    for _, ends, colour in numbered:
        draw.line(ends, INK, 9)
        draw.line(ends, colour, 5)
    for number, ends, colour in numbered:
        dark = np.dot(ImageColor.getrgb(colour), (0.299, 0.587, 0.114)) < 130  # ITU-R 601
        for end in ends:
            draw.circle(end, DOT, colour, INK, 2)
            draw.text(end, str(number), "white" if dark else INK, font(20, bold=True), anchor="mm")


def _weights(centres: np.ndarray, pixels: int) -> np.ndarray:
    """Return what each place weighs at each pixel along one side, (pixels, places): linear, level at the borders."""
    at = (np.arange(pixels) + 0.5) / pixels
    return np.stack([np.interp(at, centres, one) for one in np.eye(len(centres))], axis=1)


def _coloured(grey: np.ndarray, share: np.ndarray) -> Image.Image:
    """Colour grey pixels (height, width) by a share in [0, 1] of the same shape, which is the opacity too."""
    colour = 255 * matplotlib.colormaps["inferno"](share)[..., :3]
    cover = OPACITY * share[..., None]
    return Image.fromarray((grey[..., None] * (1 - cover) + colour * cover).round().astype(np.uint8))


def _legend(clip: Backbone, looks: Sequence[Look]) -> list[str]:
    complete = next((each for each in looks if each.heat is not None), None)
    if complete is None:
        return ["No map and no lines: a photograph is missing or cannot be read."]
    assert complete.heat is not None and complete.grid is not None
    legend = [complete.heat.legend, correspondence.legend(clip, complete.grid)]
    cosines = [(float(each.heat.cosine[0]), each.tile.score) for each in looks if each.heat is not None]
    if any(abs(cosine - score) > 0.005 for cosine, score in cosines):  # more than the feature store rounds
        legend.append("The scores are those of another embedding than the image's, which maps and lines are about.")
    return legend
