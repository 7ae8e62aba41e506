"""The exception a user's mistake raises, and the two kinds of it that some callers can work on after."""


class UserError(Exception):
    """A mistake in params, data or files, told in one sentence that names what, where and what is allowed.

    The command line prints the sentence and exits with status 2; a notebook shows it without a traceback.
    """

    def _render_traceback_(self) -> list[str]:  # IPython asks an exception for this before it draws a traceback
        return [f"clipreid: {self}"]


class UnreadableImage(UserError):
    """An image file is missing or cannot be read; others may be fine."""


class TooFewPeople(UserError):
    """An aspect has not the people a protocol needs; other aspects may have."""


def counted(number: int, noun: str) -> str:
    """Say how many there are, for a message: ``1 run``, ``1,200 runs``, ``2 people`` of the noun ``person``."""
    several = "people" if noun == "person" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else several}"
