"""Reports as pages: a few kinds of block, laid out by one template into a file that asks for nothing else."""

import functools
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from clipreid_lib.params.schema import ROOT

PICTURE = re.compile(r"(data:[^\"']*)")


@dataclass(frozen=True)
class Words:
    """A paragraph. ``missing`` marks one that says what could not be shown."""

    text: str
    missing: bool = False
    kind: str = "words"


@dataclass(frozen=True)
class Link:
    """A link to a file that lies beside the page, or to a paper; ``note`` is said after it."""

    text: str
    href: str
    note: str = ""


@dataclass(frozen=True)
class Links:
    """A list of links."""

    items: list[Link]
    kind: str = "links"


@dataclass(frozen=True)
class Table:
    """A table: the first cell of each row names it. A cell is text (line breaks are kept) or a :class:`Link`."""

    head: list[str]
    rows: Sequence[Sequence[str | Link]]
    caption: str = ""
    kind: str = "table"


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
    kind: str = "figure"


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
    """Blocks that are shown on a click."""

    title: str
    blocks: list[Any]
    kind: str = "folded"


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: list[Any] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Name to link to."""
        return re.sub(r"\W+", "-", self.title.lower())


def missing(text: str) -> Words:
    """Say what is not there."""
    return Words(text, missing=True)


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
    places = _places(tuple(hidden))
    page = _template(tuple(places))
    parts = PICTURE.split(body)  # text and pictures by turns; a picture's letters are not to be touched
    parts[::2] = [without_places(part, places) for part in parts[::2]]
    return page.render(title=title, lead=lead, sections=sections, body=Markup("".join(parts))) + "\n"


@functools.lru_cache
def _template(places: tuple[str, ...]) -> jinja2.Template:
    """Compile the page, which takes longer than filling it in."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names come from data sets, params and paths
        undefined=jinja2.StrictUndefined,
        finalize=functools.partial(without_places, places=list(places)),
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("layout.html")


def without_places(value: Any, places: list[str]) -> Any:
    """Cut folders' names out of a text; pictures, finished HTML and numbers pass."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.startswith("data:"):
        return value
    for place in places:
        value = re.sub("(?:file://)?" + re.escape(place) + r"(?:/|(?=[\s:;,.'\")<&]|$))", "", value)
    return value


def _places(hidden: tuple[Path, ...]) -> list[str]:
    places = [Path(place) for place in (*hidden, ROOT, Path.home())]
    named = {str(form) for place in places for form in (place.absolute(), place.resolve())}
    named |= {os.path.relpath(place, ROOT) for place in places}  # as notebooks name folders
    named = {name for name in named if name.strip("./") and name.startswith(("/", ".."))}
    named |= {quote(name) for name in named} | {
        html.escape(name) for name in named
    }  # as addresses and pages spell them
    return sorted(named, key=len, reverse=True)  # the longest first, for one may lie in another
