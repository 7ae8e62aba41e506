"""Hand-based person re-identification with CLIP: the library behind the numbered notebooks."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipreid_lib.runs.recognizer import Recognizer

__all__ = ["Recognizer"]
__version__ = "0.2.0"

# Torch's threads turn idly 300,000 times before they sleep. Where other programs want the same cores, small steps then
# take many times as long. The demo's notebook 02 on two cores: busy, 60 to 105 s, with this 15 to 19; idle, 12 to 15 s,
# with this 14 to 18. It counts only if torch is imported later.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def __getattr__(name: str) -> "type[Recognizer]":
    """Import the recognizer when it is asked for: it brings torch along."""
    if name == "Recognizer":
        from clipreid_lib.runs.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
