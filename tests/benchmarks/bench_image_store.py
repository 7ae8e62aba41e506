"""Images per second from originals of 1600x1200 and from the image store, side by side: `make bench`."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipreid_lib.images.photographs import Photographs, on_all_cores
from clipreid_lib.synthetic import synthetic_hands

AIM = 10  # times
IMAGES, REPEATS = 120, 3


def originals(folder: Path) -> pd.DataFrame:
    """Draw hands, enlarge them to 11k Hands' size and grain, and save them as JPEG."""
    folder.mkdir()
    random, paths = np.random.default_rng(0), []
    for number in range(IMAGES):
        person = synthetic_hands.make_person(number % 12, 0)
        pixels, _ = synthetic_hands.draw(person, "dorsal right", 0, number, seed=0)
        large = np.asarray(Image.fromarray(pixels).resize((1600, 1200), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = random.normal(0, 1.5, (1200, 1600, 1)).astype(np.float32)
        Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
        paths.append(f"originals/{number}.jpg")
    return pd.DataFrame({"path": paths})


def seconds(photographs: Photographs, table: pd.DataFrame, size: int) -> float:
    """Time one reading of all images."""
    began = time.perf_counter()
    photographs.load(table, size)
    return time.perf_counter() - began


def main() -> None:
    """Print one row per size."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        table = originals(root / "originals")
        weight = sum(path.stat().st_size for path in (root / "originals").iterdir()) / IMAGES / 1000
        print(f"{IMAGES} JPEGs of 1600x1200, {weight:.0f} kB each; median of {REPEATS} readings, taken in turn\n")
        print("size  originals/s  store/s  ratio   aim  pixels equal")
        for size in (224, 32):
            plain, stored = Photographs(root), Photographs(root, root / "store")
            store = stored.at(size, make=True)
            list(on_all_cores(lambda path, store=store: store.prepare(root / path), table["path"]))
            equal = np.array_equal(plain.load(table, size), stored.load(table, size))
            times = [(seconds(plain, table, size), seconds(stored, table, size)) for _ in range(REPEATS)]
            before, after = (statistics.median(side) for side in zip(*times, strict=True))
            print(
                f"{size:4d}  {IMAGES / before:11.0f}  {IMAGES / after:7.0f}  {before / after:5.1f}  >= {AIM}  {equal}"
            )


if __name__ == "__main__":
    main()
