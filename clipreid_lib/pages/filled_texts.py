"""Texts that lie beside the pages' modules, with blanks in Jinja's syntax: ``report.html`` and the two cards."""

from pathlib import Path

import jinja2

TEXTS = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html"]),  # names come from data sets, params and paths
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def fill(file: str, /, **values: object) -> str:
    """Fill a text's blanks by their names. What goes into HTML is escaped, unless it is Markup.

    Raises:
        jinja2.UndefinedError: the text uses a name that has no value.
    """
    return TEXTS.get_template(file).render(**values)
