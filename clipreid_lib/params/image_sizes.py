"""Sizes of network inputs: (height, width) in pixels inside the library, ``224`` or ``256x128`` in params and names."""

import re

from clipreid_lib.base.errors import UserError


def parse_size(size: int | str | tuple[int, int], key: str = "image_size") -> tuple[int, int]:
    """Turn a side, ``"N"``, ``"HEIGHTxWIDTH"`` or (height, width) into (height, width) in pixels.

    Raises:
        UserError: it is none of these, or has no pixels; the message calls it ``key``.
    """
    if isinstance(size, str) and re.fullmatch(r"\d{1,9}(x\d{1,9})?", size):
        numbers: list = [int(number) for number in size.split("x")]
    else:
        numbers = list(size) if isinstance(size, (tuple, list)) else [size]
    if len(numbers) not in (1, 2) or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise UserError(f"{key}: {size!r} is no size; give a side in pixels (224) or HEIGHTxWIDTH (256x128)")
    return numbers[0], numbers[-1]


def spell(size: tuple[int, int]) -> str:
    """Write (height, width) as params do: ``224`` for a square, else ``256x128``."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
