"""Sizes of network inputs: (height, width) in pixels inside the library, ``224`` or ``256x128`` in params and names."""

import re

from clipreid_lib.base.errors import UserError


def parse_size(size: int | str | tuple[int, int], key: str = "image_size") -> tuple[int, int]:
    """Turn any spelling of a size into (height, width) in pixels.

    Args:
        size: a side, ``"N"``, ``"HEIGHTxWIDTH"`` or (height, width). One number means a square.
        key: what the user called it, for the message.

    Raises:
        UserError: it is none of these, or has no pixels.
    """
    if isinstance(size, str) and re.fullmatch(r"\d{1,9}(x\d{1,9})?", size):
        numbers = [int(number) for number in size.split("x")]
    elif isinstance(size, int):
        numbers = [size]
    elif isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(number, int) for number in size):
        numbers = list(size)
    else:
        numbers = [0]
    if min(numbers) < 1:
        raise UserError(f"{key}: {size!r} is no size; give a side in pixels (224) or HEIGHTxWIDTH (256x128)")
    return numbers[0], numbers[-1]


def spell(size: tuple[int, int]) -> str:
    """Write (height, width) as params do: ``224`` for a square, else ``256x128``."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
