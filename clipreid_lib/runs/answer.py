"""An answer: whom photographs show, as a table, as sheets and a page, as JSON, and as a notebook shows it."""

import html
import itertools
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from clipreid_lib.base.files import replacing
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.pages import identified, style
from clipreid_lib.scores.enrolled import Gallery
from clipreid_lib.scores.identification import Bar, Search

_DRAWING = threading.Lock()  # heat maps come from hooks on the network's layers, which answers may share


@dataclass(frozen=True, repr=False)
class Answer:
    """What :meth:`clipreid_lib.runs.recognizer.Recognizer.identify` found.

    Attributes:
        searches: one per unknown person, see :class:`~clipreid_lib.scores.identification.Search`.
        bar: the threshold, or why there is none.
        notes: what holds for all searches, a sentence each.
        gallery: that was searched.
        photographs: those that asked, RGB.
        name: of the run or the backbone that compared.
        backbone: its network.
        rule: how pictures get to the network's size.
    """

    searches: list[Search]
    bar: Bar
    notes: list[str]
    gallery: Gallery
    photographs: list[Image.Image]
    name: str
    backbone: Backbone
    rule: str
    _drawn: dict[int, Image.Image] = field(default_factory=dict)

    @property
    def people(self) -> pd.DataFrame:
        """The most similar people of the first search, best first."""
        return self.searches[0].people

    @property
    def scores(self) -> np.ndarray:
        """Their scores, (top,) cosines in [-1, 1]."""
        return self.people["score"].to_numpy()

    @property
    def verdict(self) -> str:
        """The first search's verdict in words."""
        return self.searches[0].verdict

    def draw(self, place: int = 0) -> Image.Image:
        """Draw the sheet of one search, for print. Let no other thread ask the same recognizer meanwhile."""
        with _DRAWING:
            if place not in self._drawn:
                one = self.searches[place]
                mine = self.photographs if len(one.asked) > 1 else self.photographs[place : place + 1]
                self._drawn[place] = identified.draw_sheet(self.backbone, self.rule, self.gallery, one, self.bar, mine)
            return self._drawn[place]

    def write(self, folder: str | Path) -> list[Path]:
        """Write a sheet per search and ``index.html``, which holds them all; return the paths, the page's last.

        A sheet that is there already, of another photograph of that name or of another search, keeps its name; the new
        one gets a number. The page is written over.

        Raises:
            UserError: the folder cannot be written.
        """
        paths: list[Path] = []
        for place, one in enumerate(self.searches):
            stem = re.sub(r"[^\w.-]+", "_", Path(one.asked[0]).stem) + ("-together" if len(one.asked) > 1 else "")
            sheet, names = style.encode_half(self.draw(place)), (stem + f"-{n}" * (n > 1) for n in itertools.count(1))
            free = (path for name in names if (path := Path(folder) / f"{name}.jpg") not in paths)
            paths.append(
                next(path for path in free if not path.exists() or (path.is_file() and path.read_bytes() == sheet))
            )
            with replacing(paths[-1]) as temporary:
                temporary.write_bytes(sheet)
        page, drawn = Path(folder) / "index.html", [self.draw(place) for place in range(len(self.searches))]
        title = f"Who is it? Asked of {self.name}"
        identified.write_page(page, title, self.searches, drawn, self.list_notes(), self.gallery.describe())
        return [*paths, page]

    def list_notes(self) -> list[str]:
        """Return what holds for all searches, and what a score and an LLR are, a sentence or a few each."""
        notes = [*self.notes, *([identified.explain_ratio(self.bar)] if "llr" in self.people else [])]
        notes += [identified.TOGETHER] if any(len(one.asked) > 1 for one in self.searches) else []
        return [*notes, identified.CAUTION]

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain types, for JSON; images are named by their paths within the gallery's folder."""
        searches = []
        for one in self.searches:
            people = one.people.drop(columns=["row"]).to_dict("records")
            for each in people:
                each["photograph"] = one.asked[each["photograph"]]
            said = {"asked": list(one.asked), "verdict": one.verdict, "found": one.found, "notes": list(one.notes)}
            searches.append({**said, "people": people})
        holds = {key: value for key, value in self.gallery.describe().items() if key != "holds"}
        limits = {"fpir": self.bar.fpir, "threshold": self.bar.threshold}
        return {"asked_of": self.name, "gallery": holds, **limits, "notes": self.list_notes(), "searches": searches}

    def _repr_html_(self) -> str:
        """Show verdicts, tables and sheets in JupyterLab."""
        pieces = [identified.write_html(one, self.draw(place)) for place, one in enumerate(self.searches)]
        return "".join([*pieces, *(f"<p>{html.escape(note)}</p>" for note in self.list_notes())])

    def __repr__(self) -> str:
        """Return the verdicts, a line each."""
        return "\n".join(f"{', '.join(one.asked)}: {one.verdict}" for one in self.searches)
