"""The demo data set: synthetic hands, drawn on first use and kept under the outputs folder."""

import hashlib
from pathlib import Path
from typing import Any

from clipreid_lib.base.errors import UserError
from clipreid_lib.embedded import synthetic_hands
from clipreid_lib.params.schema import Params


def draw_demo(params: Params, outputs: Path) -> Path:
    """Draw the demo hands that the params ask for, unless an earlier run did.

    Args:
        params: its ``demo_*`` keys are the recipe.
        outputs: folder for everything runs write; the hands go to ``demo_hands/<recipe>`` in it.

    Returns:
        A folder in 11k Hands' layout.

    Raises:
        UserError: the hands cannot be written.
    """
    recipe: dict[str, Any] = {
        "people": params.demo_people,
        "images_per_aspect": params.demo_images,
        "sessions": params.demo_sessions,
        "difficulty": params.demo_difficulty,
        "seed": params.demo_seed,
    }
    key = (synthetic_hands.GENERATOR, sorted(recipe.items()))  # a generator that draws otherwise is another set
    folder = outputs / "demo_hands" / hashlib.sha256(repr(key).encode()).hexdigest()[:8]
    try:
        return synthetic_hands.write_dataset(folder, **recipe)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the demo hands cannot be drawn ({' '.join(str(error).split())})") from None
