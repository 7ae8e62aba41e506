"""Reading originals of 1600x1200 against reading the same pixels from the image store."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rows import Row, in_turn

from clipreid_lib.data.photographs import Photographs, on_all_cores
from clipreid_lib.embedded import synthetic_hands

AIM = 10  # times as fast
IMAGES, ROUNDS = 120, 5
FLOOR = 32  # the size of the floor's pixels
REASON = (  # what a profile says of it
    "two thirds of ours is SHA-256 over the source file (0.1 of 0.15 ms, at any size), to know a changed file; "
    "a JPEG decodes to 32 pixels in a third of the time that 224 take"
)


def originals(folder: Path) -> pd.DataFrame:
    """Draw hands, enlarge them to 11k Hands' size and grain, and save them as JPEG."""
    folder.mkdir()
    random, paths = np.random.default_rng(0), []
    for number in range(IMAGES):
        person = synthetic_hands.Person(number % 12, 0)
        pixels, _ = synthetic_hands.draw(person, "dorsal right", 0, number, seed=0)
        large = np.asarray(Image.fromarray(pixels).resize((1600, 1200), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = random.normal(0, 1.5, (1200, 1600, 1)).astype(np.float32)
        Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
        paths.append(f"originals/{number}.jpg")
    return pd.DataFrame({"path": paths})


def rows() -> list[Row]:
    """Read all images both ways, at the size of CLIP's ViT-B and at that of the pixel floor."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        table = originals(root / "originals")
        weight = sum(path.stat().st_size for path in (root / "originals").iterdir()) / IMAGES / 1000
        for size in (224, FLOOR):
            plain, stored = Photographs(root), Photographs(root, root / "store")
            store = stored.at(size, make=True)
            list(on_all_cores(lambda path, store=store: store.prepare(root / path), table["path"]))
            ways = [lambda _, each=each, size=size: each.load(table, size) for each in (plain, stored)]
            pairs, answers = in_turn(*ways, ROUNDS)
            assert np.array_equal(*answers)
            note = f"{IMAGES} JPEGs of 1600x1200, {weight:.0f} kB each; pixels equal"
            reason = REASON if size == FLOOR else ""
            row = Row(f"images at {size}", "decoding JPEGs", "image store", pairs, AIM, note=note, reason=reason)
            found.append(row)
    return found
