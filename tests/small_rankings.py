"""Rankings with made-up scores and pictures, for tests of whatever draws them."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipreid_lib.pages.ranking import Ranking


def table(identities, prefix, aspect="dorsal_r", **columns):
    paths = [f"{prefix}{i}.jpg" for i in range(len(identities))]
    return pd.DataFrame({"path": paths, "identity": identities, "aspect": aspect, **columns})


def draw_pictures(root, *tables, size=(80, 60)):
    generator = np.random.default_rng(0)
    for name in pd.concat(tables)["path"].unique():
        coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)  # soft blobs, about as dense as a photo
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(Path(root, name), quality=90)


def random_ranking(queries=12, people=6, per_person=2, seed=0):
    generator = np.random.default_rng(seed)
    query = table(np.arange(queries) % people, "q")
    shelf = table(np.repeat(np.arange(people), per_person), "g")
    return Ranking(query, shelf, generator.uniform(-1, 1, (queries, len(shelf))))
