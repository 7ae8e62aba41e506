"""Executed notebooks as pages: what they say and show, without code, scripts or anything from a network."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_text
from clipreid_lib.pages.report_blocks import render

# What a page can show without running anything, the smaller picture first.
PRIORITY = ["text/html", "image/svg+xml", "image/jpeg", "image/png", "text/markdown", "text/plain"]
ACTIVE = re.compile(
    r"<(script|iframe|object|style)\b.*?</\1\s*>|<(?:script|iframe|object|embed|link|base)\b[^>]*>", re.S | re.I
)
ELSEWHERE = re.compile(r"""<img\b[^>]*?\ssrc\s*=\s*["']?(?!["']?data:)[^>]*>""", re.I)


def export(notebook: Path, hidden: Sequence[Path] = ()) -> Path:
    """Write an executed notebook as HTML beside it, unless a newer page is there, and return the page.

    The names of ``hidden`` folders are cut out; see :func:`clipreid_lib.pages.report_blocks.render`.

    Raises:
        UserError: the notebook cannot be read.
    """
    page = notebook.with_suffix(".html")
    if page.exists() and page.stat().st_mtime >= notebook.stat().st_mtime:
        return page
    # As in clipreid_lib.runs.execute; but where it is loaded already, it stays.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import nbformat  # here: both take a second to import
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    try:
        content = nbformat.read(notebook, as_version=4)
        nbformat.validate(content)
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:  # no or half a notebook
        raise UserError(f"notebooks/{notebook.name} cannot be read ({' '.join(str(error).split())[:120]})") from None
    settings = Config(
        {"NbConvertBase": {"display_data_priority": PRIORITY}, "CoalesceStreamsPreprocessor": {"enabled": True}}
    )
    exporter = HTMLExporter(
        config=settings, template_name="basic", exclude_input=True, exclude_output_prompt=True, embed_images=True
    )
    body, _ = exporter.from_notebook_node(content)
    body = ELSEWHERE.sub("", ACTIVE.sub("", body))
    lead = ["What the executed notebook said and showed, without its code; the notebook itself lies beside this page."]
    write_text(page, render(notebook.stem.replace("_", " "), lead, [], hidden, body))
    return page
