"""What a report's page is made of: a few kinds of block, laid out by one template into a file that needs no other."""

import functools
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from clipreid_lib.params.schema import ROOT

WORDS = yaml.safe_load(Path(__file__).with_name("report_words.yaml").read_text(encoding="utf-8"))
TEXTS, FIGURES = WORDS["texts"], WORDS["figures"]
PICTURE = re.compile(r"(data:[^\"']*)")


@dataclass(frozen=True)
class Words:
    """A paragraph. ``missing`` marks one that says what could not be shown."""

    text: str
    missing: bool = False
    kind: str = "words"


@dataclass(frozen=True)
class Link:
    """A link to a file that lies beside the page, in a table or on a line of its own; ``note`` is said after it."""

    text: str
    href: str
    note: str = ""
    kind: str = "link"


@dataclass(frozen=True)
class Table:
    """A table: the first cell of each row names it. A cell is text (line breaks are kept) or a :class:`Link`."""

    head: list[str]
    rows: Sequence[Sequence[str | Link]]
    caption: str = ""
    kind: str = "table"

    @classmethod
    def of(cls, table: pd.DataFrame, caption: str = "", index: bool = True) -> "Table":
        """Turn a pandas table into a report's, every cell as text; empty for NaN."""
        table = table.reset_index() if index else table
        cells = [["" if pd.isna(cell) else str(cell) for cell in row] for row in table.itertuples(index=False)]
        return cls(["" if str(name) in ("index", "level_0") else str(name) for name in table], cells, caption)


@dataclass(frozen=True)
class Facts:
    """Names and what they are, one under the other."""

    rows: dict[str, str]
    kind: str = "facts"


@dataclass(frozen=True)
class Figure:
    """A picture as a data address, with its size in px and a caption; ``wide`` ones take the whole width."""

    source: str
    width: int
    height: int
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Figures:
    """Pictures side by side where there is room."""

    items: list[Figure]
    kind: str = "figures"


@dataclass(frozen=True)
class Command:
    """A command to copy."""

    text: str
    kind: str = "command"


@dataclass(frozen=True)
class Folded:
    """Blocks that open on a click."""

    title: str
    blocks: list[Any]
    kind: str = "folded"


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: list[Any]

    @property
    def anchor(self) -> str:
        """Name to link to."""
        return re.sub(r"\W+", "-", self.title.lower())


def link_to(path: Path, folder: Path, text: str) -> Link:
    """Return a link to a file from a page in ``folder`` that works wherever both are copied."""
    return Link(text, quote(Path(os.path.relpath(path, folder)).as_posix()))


def render(title: str, lead: list[str], sections: list[Section], hidden: Sequence[Path] = (), body: str = "") -> str:
    """Lay a page out.

    Args:
        title: heading of the page.
        lead: paragraphs below it.
        sections: the page.
        hidden: folders whose names are cut out of every text, beside the project's and the user's own folder: a page
            is meant to be passed on.
        body: HTML that stands as it is, with a heading of its own; what ``lead`` says then follows it.

    Returns:
        The page, the same for the same input.
    """
    places = _spell_places(hidden)
    parts = PICTURE.split(body)  # text and pictures by turns; a picture's letters are not to be touched
    parts[::2] = [_cut_places(part, places) for part in parts[::2]]
    page = _compile(places)
    return page.render(title=title, lead=lead, sections=sections, body=Markup("".join(parts))) + "\n"


@functools.lru_cache
def _compile(places: tuple[str, ...]) -> jinja2.Template:
    """Compile the page, which takes longer than filling it in."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names come from data sets, params and paths
        undefined=jinja2.StrictUndefined,
        finalize=functools.partial(_cut_places, places=places),
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")


def _cut_places(value: Any, places: Sequence[str]) -> Any:
    """Cut folders' names out of a text; pictures, finished HTML and numbers pass."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.startswith("data:"):
        return value
    for place in places:
        value = re.sub("(?:file://)?" + re.escape(place) + r"(?:/|(?=[\s:;,.'\")<&]|$))", "", value)
    return value


def _spell_places(hidden: Sequence[Path]) -> tuple[str, ...]:
    """Return every way to write the folders that a page must not name, the longest first, as one may hold another."""
    places = [Path(place) for place in (*hidden, ROOT, Path.home())]
    named = {str(form) for place in places for form in (place.absolute(), place.resolve())}
    named |= {os.path.relpath(place, ROOT) for place in places}  # as notebooks name folders
    named = {name for name in named if name.strip("./") and name.startswith(("/", ".."))}
    named |= {spell(name) for name in named for spell in (quote, html.escape)}  # as addresses and pages spell them
    return tuple(sorted(named, key=lambda name: (-len(name), name)))
