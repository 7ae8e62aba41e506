"""The embedded default: synthetic hands, drawn once and kept under the outputs folder."""

import hashlib
from pathlib import Path

from clipreid_lib import synthetic_hands


def prepare(params, outputs: Path) -> Path:
    """Draw the demo hands the params ask for, unless an earlier run did.

    Args:
        params: a :class:`clipreid_lib.params.Params`; its ``demo_*`` keys are the recipe.
        outputs: folder for everything runs write; the hands go to ``demo_hands/<recipe>`` in it.

    Returns:
        A folder in 11k Hands' layout.
    """
    recipe = {
        "people": params.demo_people,
        "images_per_aspect": params.demo_images,
        "sessions": params.demo_sessions,
        "difficulty": params.demo_difficulty,
        "seed": params.demo_seed,
    }
    name = hashlib.sha256(repr(sorted(recipe.items())).encode()).hexdigest()[:8]
    return synthetic_hands.write_dataset(outputs / "demo_hands" / name, **recipe)
