"""A browser of rankings for JupyterLab; where nobody is there to click, a sheet of the same run instead."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from IPython import get_ipython
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.pages import choices, gallery, overlays, retrieval, style
from clipreid_lib.pages.gallery_page import MOST
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.scores.encoder import Encoder

ROWS = 4  # queries at once: as many as a laptop's screen holds
EVERY_STAGE = "every stage, one row each"


def browse(
    named: dict[str, Ranking],
    encoder: Encoder,
    photographs: Photographs,
    images: pd.DataFrame,
    before: Encoder,
    seed: int = 0,
    top: int = 8,
) -> Any:
    """Browse queries: choose, page, change k, compare stages, see where the model looks, ask in words.

    Args:
        named: rankings of the same queries by stage, the last one's first in the list.
        encoder: that made the last ranking; shows where it looks.
        photographs: the data set's images.
        images: rows of the image table to search by a sentence.
        before: the encoder that sentences are asked of, as it was pretrained.
        seed: of queries at random.
        top: gallery images per row.

    Returns:
        Controls above a picture in JupyterLab. Under papermill or nbconvert, and without ipywidgets, a sheet of queries
        drawn at random, since there is nobody to click.
    """
    if can_click():
        return Browser(named, encoder, photographs, images, before, seed, top).box
    *_, ranking = named.values()
    chosen = choices.choose_random(ranking, seed)[:ROWS]
    return gallery.draw_queries(ranking, photographs.root, chosen, top=top, title="Queries at random").reduce(2)


def can_click() -> bool:
    """Whether a person runs the cell, in a program that shows controls."""
    if importlib.util.find_spec("ipywidgets") is None:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    # papermill and nbconvert run cells with the standard input closed: nobody is there to answer, or to click.
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


@dataclass
class Browser:
    """Controls and the picture they choose, both in ``box``; what it is made of is :func:`browse`'s."""

    named: dict[str, Ranking]
    encoder: Encoder
    photographs: Photographs
    images: pd.DataFrame
    before: Encoder
    seed: int
    top: int

    def __post_init__(self) -> None:
        """Build the controls and draw the first picture."""
        import ipywidgets as widgets  # here: optional

        *_, self.ranking = self.named.values()
        self.ways = self._list_ways()
        self.start = 0  # place in the chosen order of the first query in the picture
        largest = min(MOST, len(self.ranking.gallery))
        stages = [*reversed(self.named), *([EVERY_STAGE] if len(self.named) > 1 else [])]
        pictures = [("the gallery", 0), *((f"where it looks, rank {rank}", rank) for rank in range(1, largest + 1))]
        look = {"style": {"description_width": "70px"}, "layout": widgets.Layout(width="300px")}
        typed = {"continuous_update": False, **look}
        self.controls = {
            "choice": widgets.Dropdown(description="queries", options=list(self.ways), **look),
            "stage": widgets.Dropdown(description="stage", options=stages, **look),
            "k": widgets.IntSlider(description="k", value=min(self.top, largest), min=1, max=largest, **look),
            "name": widgets.Text(description="by name", placeholder="a file's name", **typed),
            "sentence": widgets.Text(description="in words", placeholder="a left hand, dark skin", **typed),
            "look": widgets.Dropdown(description="picture", options=pictures, **look),
        }
        self.buttons = {
            "back": widgets.Button(description="previous", icon="arrow-left"),
            "on": widgets.Button(description="next", icon="arrow-right"),
        }
        for control in self.controls.values():
            control.observe(self._begin_again, "value")
        for button in self.buttons.values():
            button.on_click(self._step)
        fits = widgets.Layout(max_width="100%", align_self="flex-start")  # smaller if need be, never larger
        self.status, self.picture = widgets.Label(), widgets.Image(format="jpeg", layout=fits)
        boxes, flow = [*self.controls.values()], widgets.Layout(flex_flow="row wrap")
        rows = [boxes[:3], boxes[3:], [*self.buttons.values(), self.status]]
        self.box = widgets.VBox([*(widgets.HBox(row, layout=flow) for row in rows), self.picture])
        self._draw()

    @property
    def chosen(self) -> np.ndarray:
        """All query positions that the controls choose, in their order, by the ranking of the stage chosen."""
        name, ranking = self.controls["name"].value.strip(), self.named.get(self.controls["stage"].value, self.ranking)
        return choices.choose_named(ranking, name) if name else self.ways[self.controls["choice"].value](ranking)

    @property
    def visible(self) -> list[int]:
        """Query positions in the picture."""
        return self.chosen[self.start : self.start + self._rows].tolist()

    @property
    def _rows(self) -> int:
        return 1 if self.controls["look"].value or self.controls["stage"].value == EVERY_STAGE else ROWS

    def _list_ways(self) -> dict[str, Callable[[Ranking], np.ndarray]]:
        count = len(self.ranking.query)
        begin, first = next(iter(self.named.items()))
        ways: dict[str, Callable[[Ranking], np.ndarray]] = {
            "hardest first": lambda ranking: ranking.hardest(count),
            "easiest first": lambda ranking: ranking.hardest(count)[::-1],
            "at random": partial(choices.choose_random, seed=self.seed),
            "wrong at rank-1": choices.choose_wrong,
        }
        if first is not self.ranking:
            for way, falling in (("risen", False), ("fallen", True)):
                ways[f"{way} most since {begin}"] = partial(choices.choose_changed, first, falling=falling)
        for column, words in choices.list_groups(self.ranking).items():
            for word in sorted(set(words)):
                ways[f"{column.replace('_', ' ')}: {word}"] = partial(choices.choose_group, column=column, value=word)
        return ways

    def _begin_again(self, _: object) -> None:
        self.start = 0
        self._draw()

    def _step(self, button: object) -> None:
        self._draw(step=self._rows if button is self.buttons["on"] else -self._rows)

    def _draw(self, step: int = 0) -> None:
        try:
            if 0 <= self.start + step < len(self.chosen):  # otherwise stay: there is nothing further on
                self.start += step
            picture, text = self._ask() if self.controls["sentence"].value.strip() else self._rank()
        except UserError as error:  # a name that does not exist: say so and leave the picture as it is
            self.status.value = str(error)
            return
        self.picture.value, self.status.value = style.encode_half(picture), text

    def _ask(self) -> tuple[Image.Image, str]:
        sentence = self.controls["sentence"].value.strip()
        found = retrieval.ask(self.before, self.images, sentence, self.controls["k"].value)
        picture = gallery.draw_found(found, self.photographs.root, sentence)
        return picture, "by the encoder before any training; empty the field to go back"

    def _rank(self) -> tuple[Image.Image, str]:
        stage, top, rank = (self.controls[name].value for name in ("stage", "k", "look"))
        queries, root = self.visible, self.photographs.root
        if not queries:
            raise UserError("no query is like that")
        span = f"{self.start + 1} to {self.start + len(queries)}" if len(queries) > 1 else self.start + 1
        text = f"{span} of {len(self.chosen)} queries"
        if rank:
            picture = overlays.draw_pair(self.encoder.backbone, self.photographs, self.ranking, queries[0], rank)
            return picture, f"{text}, by this run's encoder"
        if stage == EVERY_STAGE:
            return gallery.draw_stages(self.named, root, queries[0], top=top), text
        return gallery.draw_queries(self.named[stage], root, queries, top=top, title=stage), text
