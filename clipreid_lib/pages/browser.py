"""A browser of rankings for JupyterLab; where nobody is there to click, a sheet of the same run instead."""

import importlib.util
import io
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from IPython import get_ipython
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import choices, gallery, overlays, retrieval
from clipreid_lib.pages.gallery_page import MOST
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.runs import stages
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.stages import Trained

if TYPE_CHECKING:  # optional
    import ipywidgets as widgets

ROWS = 4  # queries at once: as many as a laptop's screen holds
EVERY_STAGE = "every stage, one row each"


def browse(
    run: Run, trained: Trained | None = None, named: dict[str, Ranking] | None = None
) -> "widgets.VBox | Image.Image":
    """Browse a run's queries: choose, page, change k, compare stages, see where the model looks, ask in words.

    Args:
        run: an evaluated run.
        trained: its backbone; loaded where it is not given.
        named: its rankings by stage, from :func:`~clipreid_lib.pages.retrieval.rankings`; made where not given.

    Returns:
        Controls above a picture in JupyterLab. Under papermill or nbconvert, and where ipywidgets is not installed, a
        sheet of queries drawn at random, since there is nobody to click.
    """
    trained = trained or stages.load_trained(run)
    named = named or retrieval.rankings(run, trained)
    if _somebody_can_click():
        return Browser(run, trained, named).box
    *_, ranking = named.values()
    drawn = choices.at_random(ranking, ROWS, run.params.seed)
    return gallery.sheet(ranking, run.data_root, drawn, top=run.params.top_k, title="Queries at random").reduce(2)


def _somebody_can_click() -> bool:
    if importlib.util.find_spec("ipywidgets") is None:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    # papermill and nbconvert run cells with the standard input closed: nobody is there to answer, or to click.
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


class Browser:
    """Controls and the picture they choose.

    Attributes:
        controls: the widgets by what they decide.
        box: all of them, laid out, with the picture below.
    """

    def __init__(self, run: Run, trained: Trained, named: dict[str, Ranking]) -> None:
        """Build the controls and draw the first picture."""
        import ipywidgets as widgets  # here: optional

        self.run, self.trained, self.named = run, trained, named
        *_, self.ranking = named.values()
        self.offered = self._offers()
        self.start = 0  # place in the chosen order of the first query shown
        largest = min(MOST, len(self.ranking.gallery))
        wide = widgets.Layout(width="300px")
        named_below = {"style": {"description_width": "70px"}, "layout": wide}
        stages_at_hand = [*reversed(named), *([EVERY_STAGE] if len(named) > 1 else [])]
        pictures = [("the gallery", 0), *((f"where it looks, rank {rank}", rank) for rank in range(1, largest + 1))]
        self.controls = {
            "choice": widgets.Dropdown(description="queries", options=list(self.offered), **named_below),
            "name": widgets.Text(
                description="by name", placeholder="a file's name", continuous_update=False, **named_below
            ),
            "stage": widgets.Dropdown(description="stage", options=stages_at_hand, **named_below),
            "k": widgets.IntSlider(
                description="k", value=min(run.params.top_k, largest), min=1, max=largest, **named_below
            ),
            "sentence": widgets.Text(
                description="in words", placeholder="a left hand with a ring", continuous_update=False, **named_below
            ),
            "look": widgets.Dropdown(description="picture", options=pictures, **named_below),
            "back": widgets.Button(description="previous", icon="arrow-left"),
            "on": widgets.Button(description="next", icon="arrow-right"),
        }
        fits = widgets.Layout(max_width="100%", align_self="flex-start")  # smaller if need be, never larger
        self.said, self.picture = widgets.Label(), widgets.Image(format="jpeg", layout=fits)
        for name, control in self.controls.items():
            if name in ("back", "on"):
                control.on_click(self._step)
            else:
                control.observe(self._changed, "value")
        rows = [("choice", "stage", "k"), ("name", "sentence", "look"), ("back", "on")]
        flow = widgets.Layout(flex_flow="row wrap")
        boxes = [widgets.HBox([self.controls[name] for name in row], layout=flow) for row in rows]
        boxes[-1].children += (self.said,)
        self.box = widgets.VBox([*boxes, self.picture])
        self._draw()

    @property
    def shown(self) -> list[int]:
        """Query positions in the picture."""
        return self.chosen[self.start : self.start + self._rows].tolist()

    @property
    def _rows(self) -> int:
        return 1 if self.controls["look"].value or self.controls["stage"].value == EVERY_STAGE else ROWS

    @property
    def chosen(self) -> np.ndarray:
        """All query positions that the controls choose, in their order, by the ranking of the stage that is shown."""
        name, ranking = self.controls["name"].value.strip(), self.named.get(self.controls["stage"].value, self.ranking)
        return choices.named(ranking, name) if name else self.offered[self.controls["choice"].value](ranking)

    @cached_property
    def _frozen(self) -> Trained:
        return stages.pretrained(self.run)

    def _offers(self) -> dict[str, Callable[[Ranking], np.ndarray]]:
        count, seed = len(self.ranking.query), self.run.params.seed
        first, *_ = self.named.values()
        offered = {
            "hardest first": lambda ranking: ranking.hardest(count),
            "easiest first": lambda ranking: ranking.hardest(count)[::-1],
            "at random": lambda ranking: choices.at_random(ranking, count, seed),
            "wrong at rank-1": lambda ranking: choices.wrong(ranking, count),
        }
        if first is not self.ranking:
            begin = next(iter(self.named))
            for way, falling in (("risen", False), ("fallen", True)):
                change = partial(choices.largest_change, first, n=count, falling=falling)
                offered[f"{way} most since {begin}"] = change
        for column, words in choices.groups(self.ranking).items():
            for word in sorted(set(words)):
                group = partial(choices.of_group, column=column, value=word)
                offered[f"{column.replace('_', ' ')}: {word}"] = group
        return offered

    def _changed(self, _: object) -> None:
        self.start = 0
        self._draw()

    def _step(self, button: object) -> None:
        self._draw(step=self._rows if button is self.controls["on"] else -self._rows)

    def _draw(self, step: int = 0) -> None:
        try:
            if 0 <= self.start + step < len(self.chosen):  # otherwise stay: there is nothing further on
                self.start += step
            picture, text = self._asked() if self.controls["sentence"].value.strip() else self._ranked()
        except UserError as error:  # a name that does not exist: say so and leave the picture as it is
            self.said.value = str(error)
            return
        memory = io.BytesIO()
        picture.reduce(2).save(memory, "JPEG", quality=88)  # drawn for print, shown at half the size
        self.picture.value, self.said.value = memory.getvalue(), text

    def _asked(self) -> tuple[Image.Image, str]:
        sentence = self.controls["sentence"].value.strip()
        images, top = retrieval.tested_people(self.run), self.controls["k"].value
        found = retrieval.ask(self.run, self._frozen, images, sentence, top)
        return retrieval.strip(
            found, self.run.data_root, sentence
        ), "by the encoder before any training; empty the field to go back"

    def _ranked(self) -> tuple[Image.Image, str]:
        stage, top, rank = (self.controls[name].value for name in ("stage", "k", "look"))
        count, queries = len(self.chosen), self.shown
        if not queries:
            raise UserError("no query is like that")
        span = f"{self.start + 1} to {self.start + len(queries)}" if len(queries) > 1 else self.start + 1
        text = f"{span} of {count} queries"
        if rank:
            looked = overlays.pair(self.run, self.trained, self.ranking, queries[0], rank)
            return looked, f"{text}, by this run's encoder"
        if stage == EVERY_STAGE:
            return gallery.before_and_after(self.named, self.run.data_root, queries[0], top=top), text
        return gallery.sheet(self.named[stage], self.run.data_root, queries, top=top, title=stage), text
