"""What a report's page is made of: a few kinds of block, laid out by one template into a file that needs no other."""

import base64
import html
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import matplotlib
import pandas as pd
import yaml
from markupsafe import Markup, escape
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import style
from clipreid_lib.pages.filled_texts import fill
from clipreid_lib.pages.thumbnails import to_jpeg
from clipreid_lib.params.schema import ROOT

if TYPE_CHECKING:  # slow to import, and a page of photographs alone needs no plot
    import matplotlib.pyplot as plt

WORDS = yaml.safe_load(Path(__file__).with_name("report_words.yaml").read_text(encoding="utf-8"))
TEXTS, FIGURES = WORDS["texts"], WORDS["figures"]
PICTURE = re.compile(r"(data:image/[^\"']*)")
WIDEST = 1400  # px of a picture on a page
LARGE = 400_000  # bytes from which a file is taken for photographs: as JPEG, which would blur a line drawing
HALF = 5.0  # inches in print up to which a figure takes half of the page
DPI = 150  # of figures drawn for the page alone


class Words(NamedTuple):
    """A paragraph. ``missing`` marks one that says what could not be shown."""

    text: str
    missing: bool = False


class Link(NamedTuple):
    """A link to a file that lies beside the page, in a table or on a line of its own; ``note`` is said after it."""

    text: str
    href: str
    note: str = ""


class Table(NamedTuple):
    """A table: the first cell of each row names it. A cell is text (line breaks are kept) or a :class:`Link`."""

    head: list[str]
    rows: Sequence[Sequence[str | Link]]
    caption: str = ""

    @classmethod
    def of(cls, table: pd.DataFrame, caption: str = "", index: bool = True) -> "Table":
        """Turn a pandas table into a report's, every cell as text; empty for NaN."""
        table = table.reset_index() if index else table
        cells = [["" if pd.isna(cell) else str(cell) for cell in row] for row in table.itertuples(index=False)]
        return cls(["" if str(name) in ("index", "level_0") else str(name) for name in table], cells, caption)


class Facts(NamedTuple):
    """Names and what they are, one under the other."""

    rows: dict[str, str]


class Figure(NamedTuple):
    """A picture as a data address, with its size in px and a caption; ``wide`` ones take the whole width."""

    source: str
    width: int
    height: int
    caption: str
    wide: bool = False


class Figures(NamedTuple):
    """Pictures side by side where there is room."""

    items: list[Figure]


class Command(NamedTuple):
    """A command to copy."""

    text: str


class Folded(NamedTuple):
    """Blocks that open on a click."""

    title: str
    blocks: list[Any]


class Section(NamedTuple):
    """A heading and its blocks."""

    title: str
    blocks: list[Any]

    @property
    def anchor(self) -> str:
        """Name to link to."""
        return re.sub(r"\W+", "-", self.title.lower())


def stack(cell: object) -> str:
    """Write a cell as text, an interval in it on a line of its own."""
    return str(cell).replace(" [", "\n[")


def make_section(title: str, make: Callable[..., list], *given: object) -> Section:
    """Make a section, or one that says which file of a run is missing or damaged.

    Only what reading a file raises counts as that: any other error is a fault of ours and is not caught.
    """
    try:
        return Section(title, make(*given))
    except UserError as error:
        return Section(title, [Words(f"Not to be shown: {str(error).rstrip('.')}.", missing=True)])


def link_to(path: Path, folder: Path, text: str) -> Link:
    """Return a link to a file from a page in ``folder`` that works wherever both are copied."""
    return Link(text, quote(Path(os.path.relpath(path, folder)).as_posix()))


def embed(path: Path, caption: str) -> Figure:
    """Take a PNG file into a page, at most 1400 px wide: a drawing as PNG of 256 colours, photographs as JPEG.

    Raises:
        UserError: it is not there or no picture.
    """
    try:
        with Image.open(path) as image:
            per_inch, small = image.info.get("dpi", (style.PRINT,))[0], image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # Pillow answers some damaged PNG files by SyntaxError
        how = "is not there" if isinstance(error, FileNotFoundError) else "is no picture that can be read"
        raise UserError(f"figures/{path.name} {how}") from None
    wide = small.width > min(HALF * per_inch, 2 * small.height)
    small.thumbnail((WIDEST, 10 * WIDEST))
    if path.stat().st_size > LARGE:
        source = write_address(to_jpeg(small), "jpeg")
        return Figure(source, small.width, small.height, caption, wide=True)  # its small print needs the room
    memory = io.BytesIO()
    small.quantize(256).save(memory, "PNG", optimize=True)
    return Figure(write_address(memory.getvalue(), "png"), small.width, small.height, caption, wide)


def write_address(picture: bytes, kind: str) -> str:
    """Write a picture's bytes, ``png`` or ``jpeg``, as a data address."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def draw(make: "Callable[..., plt.Figure]", caption: str, *values: object) -> Figure:
    """Draw a figure by ``make(*values)`` in the library's style and take it into a page as PNG."""
    import matplotlib.pyplot as plt

    with matplotlib.rc_context():
        style.use()
        figure, memory = make(*values), io.BytesIO()
        figure.savefig(memory, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
    width, height = Image.open(memory).size
    return Figure(write_address(memory.getvalue(), "png"), width, height, caption, width > HALF * DPI)


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
    page = fill("report.html", title=title, lead=lead, sections=sections, body=Markup(body)) + "\n"
    parts = PICTURE.split(page)  # text and pictures by turns; a picture's letters are not to be touched
    for place in _spell_places(hidden):
        cut = re.compile("(?:file://)?" + re.escape(place) + r"(?:/|(?=[\s:;,.'\")<&]))")
        parts[::2] = [cut.sub("", part) for part in parts[::2]]
    return "".join(parts)


def _spell_places(hidden: Sequence[Path]) -> list[str]:
    """Return every way to write the folders that a page must not name, the longest first, as one may hold another."""
    places = [Path(place) for place in (*hidden, ROOT, Path.home())]
    named = {str(form) for place in places for form in (place.absolute(), place.resolve())}
    named |= {os.path.relpath(place, ROOT) for place in places}  # as notebooks name folders
    named = {name for name in named if name.strip("./") and name.startswith(("/", ".."))}
    # As addresses, notebooks and pages spell them.
    named |= {spell(name) for name in named for spell in (quote, html.escape, lambda name: str(escape(name)))}
    return sorted(named, key=lambda name: (-len(name), name))
