"""Who is it: a sheet for each unknown person, and one page for all, which needs no other file.

A sheet shows the photograph, the most similar people with their scores, and where each pair looks alike.
"""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from clipreid_lib.base.files import write_text
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.data.photographs import fit
from clipreid_lib.pages import gallery as sheets
from clipreid_lib.pages import overlays, report_blocks, style
from clipreid_lib.pages.ranking import Result
from clipreid_lib.pages.style import INK, RIGHT
from clipreid_lib.scores.enrolled import Gallery
from clipreid_lib.scores.identification import Bar, Search

MOST = 8  # photographs of one unknown person on a sheet; the others count as well
CAUTION = (
    "A list of the most similar people always names somebody. A score is a cosine within one model and no probability. "
    "The verdict says a name where the score is above the threshold, and may be wrong. No name does not mean that the "
    "person is not enrolled. For research only: this is no evidence, and no lead in an investigation."
)
RATIO = (
    "LLR is the natural logarithm of how many times more probable the score is for two photographs of one person than "
    "for two of different people. It is of one pair alone. The best of many pairs is high by chance, so a stranger's "
    "best match often has a high one. It holds for people and photographs like those it was learned from, taken within "
    "the same minutes or days as theirs; a grey copy or another camera makes it wrong."
)
TOGETHER = "Several photographs of one unknown person: a person's score is the mean of the photographs' scores."


def explain_ratio(bar: Bar) -> str:
    """Say what an LLR is, and between which limits it is kept."""
    if np.isinf(bar.bounds).any():
        return RATIO
    return f"{RATIO} It is kept from {bar.bounds[0]:+.1f} to {bar.bounds[1]:+.1f}: so few people support no more."


def draw_sheet(
    clip: Backbone, rule: str, gallery: Gallery, one: Search, bar: Bar, photographs: Sequence[Image.Image]
) -> Image.Image:
    """Draw one search for print.

    Args:
        clip: the backbone that compares.
        rule: how pictures get to its size, as for :func:`clipreid_lib.data.photographs.decode`.
        gallery: that was searched.
        one: the search.
        bar: what its first score had to exceed.
        photographs: those that ask, RGB.
    """
    asked = [
        sheets.Tile(image, ["photograph", name]) for image, name in zip(photographs[:MOST], one.asked, strict=False)
    ]
    tiles, looks = [], []
    for each in one.people.itertuples():
        image, row = gallery.open_picture(each.row, sheets.TILE), gallery.table.iloc[each.row]
        above = bar.threshold is not None and each.score > bar.threshold
        score = f"{each.score:.4f}, above" if above else f"{each.score:.4f}"
        captions = [f"{each.rank}. {each.person}", score, Path(each.image).name]
        tiles.append(sheets.Tile(image, captions, RIGHT if above else INK))
        pair = pd.DataFrame([{**row, "path": one.asked[each.photograph]}, row])
        match = gallery.open_picture(each.row, max(clip.image_size))
        pixels: list = [
            torch.from_numpy(fit(seen, clip.image_size, rule)) for seen in (photographs[each.photograph], match)
        ]
        result = Result(each.row, each.rank, each.score, None, each.image)
        looks.append(overlays.look_at(clip, pair, result, pixels))
    tiles[0] = tiles[0]._replace(air=sheets.GAP)
    rows = (
        [(one.verdict, asked), ("the most similar people", tiles)] if len(asked) > 1 else [(one.verdict, asked + tiles)]
    )
    return sheets.stack([sheets.draw_rows(rows), overlays.draw_looks(clip, looks)])


def tabulate(one: Search) -> pd.DataFrame:
    """Return whom a search found as text: rank, person, score, LLR where one was learned, best image."""
    people = one.people
    shown = {"rank": people["rank"].astype(str), "person": people["person"]}
    shown["score"] = people["score"].map("{:.4f}".format)
    if "llr" in people:
        shown["LLR"] = people["llr"].map("{:+.1f}".format)
    return pd.DataFrame(shown | {"most similar image": people["image"]})


def write_html(one: Search, sheet: Image.Image) -> str:
    """Return a search as a piece of a page: verdict, table, sheet."""
    said = "".join(f"<p>{html.escape(text)}</p>" for text in (f"{', '.join(one.asked)}: {one.verdict}", *one.notes))
    source = report_blocks.write_address(style.encode_half(sheet), "jpeg")
    return f'{said}{tabulate(one).to_html(index=False)}<img src="{source}" style="max-width: 100%">'


def write_page(
    target: Path,
    title: str,
    searches: Sequence[Search],
    drawn: Sequence[Image.Image],
    notes: Sequence[str],
    holds: dict,
) -> None:
    """Write all searches as one page.

    Args:
        target: file to write, atomically.
        title: heading of the page.
        searches: of one call.
        drawn: their sheets.
        notes: what holds for all of them, a sentence each.
        holds: what the gallery holds, from :meth:`clipreid_lib.scores.enrolled.Gallery.describe`.
    """
    sections = []
    for one, sheet in zip(searches, drawn, strict=True):
        caption = "The photograph, the most similar people, and below where each pair looks alike"
        source = report_blocks.write_address(style.encode_half(sheet), "jpeg")
        picture = report_blocks.Figure(source, sheet.width // 2, sheet.height // 2, caption, wide=True)
        words = [report_blocks.Words(f"{text[0].upper()}{text[1:].rstrip('.')}.") for text in (one.verdict, *one.notes)]
        table = report_blocks.Table.of(tabulate(one), index=False)
        blocks = [*words, table, report_blocks.Figures([picture])]
        sections.append(report_blocks.Section(", ".join(one.asked), blocks))
    about = [report_blocks.Words(text) for text in notes if text != CAUTION]  # which leads the page
    enrolled = {
        "enrolled": f"{holds['images']:,} images of {holds['people']:,} people",
        "aspects": ", ".join(holds["aspects"]),
    }
    sections.append(report_blocks.Section("What this says", [report_blocks.Facts(enrolled), *about]))
    write_text(target, report_blocks.render(title, [CAUTION], sections))
