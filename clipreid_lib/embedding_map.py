"""The space: embeddings of images laid out in the plane, to look at who stands beside whom."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch.nn import functional

from clipreid_lib.errors import UserError
from clipreid_lib.features import Embeddings
from clipreid_lib.style import plain

FEW = 10  # colours that can be told apart at once
METHODS = ("pca", "tsne")


def flatten(embeddings: Embeddings, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Lay normalised embeddings out in the plane.

    Args:
        embeddings: (N, D), at least three images.
        method: ``pca`` keeps large distances (Pearson 1901); ``tsne`` keeps neighbours and nothing else (van der Maaten
            and Hinton 2008): how far groups lie apart, and how large they are, says nothing.
        seed: of t-SNE.

    Returns:
        (N, 2).

    Raises:
        UserError: an unknown method, or fewer than three images.
    """
    if method not in METHODS:
        raise UserError(f"method: {method!r} is unknown; allowed: {', '.join(METHODS)}")
    count = len(embeddings.paths)
    if count < 3:
        raise UserError(f"embedding map: {count} images; at least three are needed")
    values = functional.normalize(embeddings.values, dim=1).numpy()
    wanted = 2 if method == "pca" else 50  # t-SNE's authors, too, let PCA take the noise out first
    flat = PCA(min(wanted, count, values.shape[1]), random_state=seed).fit_transform(values)
    if method == "pca":
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    return TSNE(perplexity=min(30, (count - 1) / 3), init="pca", random_state=seed).fit_transform(flat)


def columns(images: pd.DataFrame) -> list[str]:
    """Return what a map of these images is worth colouring by: the person, and the first other column that varies."""
    others = [name for name in ("skin_color", "gender", "session", "camera") if name in images]
    return ["identity", *[name for name in others if images[name].nunique() > 1][:1]]


def draw(points: np.ndarray, images: pd.DataFrame, columns: list[str]) -> plt.Figure:
    """Draw the map once per column, coloured by it.

    Args:
        points: (N, 2) from :func:`flatten`.
        images: (N rows) of the image table, in the same order.
        columns: what to colour by. Of a column with more than ten values, ten evenly spaced ones are coloured and the
            others stay grey.
    """
    figure, axes = plt.subplots(1, len(columns), figsize=(4.6 * len(columns), 4.4), squeeze=False)
    for place, column in zip(axes[0], columns, strict=True):
        values = images[column].fillna("unknown").astype(str).to_numpy()
        there = sorted(set(values), key=lambda text: (len(text), text))
        shown = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, FEW).astype(int))]
        place.scatter(*points.T, s=8, color="0.85", linewidths=0)
        for value, colour in zip(shown, sns.color_palette("colorblind", FEW), strict=False):
            mine = points[values == value]
            place.scatter(*mine.T, s=16, color=colour, linewidths=0, label=plain(value))
        place.set(xticks=[], yticks=[], title=column.replace("_", " "))
        place.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.5)
    return figure
