"""Pictures of a report: a run's figures made small enough to embed, and others drawn for the page."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import style
from clipreid_lib.pages.report_blocks import Figure
from clipreid_lib.pages.thumbnails import encode_jpeg

WIDEST = 1400  # px of a picture on a page
LARGE = 400_000  # bytes from which a file is taken for photographs: as JPEG, which would blur a line drawing
HALF = 5.0  # inches in print up to which a figure takes half of the page
DPI = 150  # of figures drawn for the page alone


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
        source = "data:image/jpeg;base64," + encode_jpeg(small)
        return Figure(source, small.width, small.height, caption, wide=True)  # its small print needs the room
    memory = io.BytesIO()
    small.quantize(256).save(memory, "PNG", optimize=True)
    return Figure(_encode_png(memory), small.width, small.height, caption, wide)


def _encode_png(memory: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(memory.getvalue()).decode("ascii")


def draw(make: Callable[..., plt.Figure], caption: str, *values: object) -> Figure:
    """Draw a figure by ``make(*values)`` in the library's style and take it into a page as PNG.

    Args:
        make: draws the figure.
        caption: below it.
        *values: what ``make`` is called with.
    """
    with matplotlib.rc_context():
        style.use()
        figure, memory = make(*values), io.BytesIO()
        figure.savefig(memory, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
    width, height = Image.open(memory).size
    return Figure(_encode_png(memory), width, height, caption, width > HALF * DPI)
