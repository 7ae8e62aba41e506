"""Hand-based person re-identification with CLIP: the library behind the numbered notebooks."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipreid_lib.runs.recognizer import Recognizer

__all__ = ["Recognizer"]
__version__ = "0.2.0"


def __getattr__(name: str) -> "type[Recognizer]":
    """Import the recognizer when it is asked for: it brings torch along."""
    if name == "Recognizer":
        from clipreid_lib.runs.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
