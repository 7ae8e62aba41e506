"""The space: embeddings of images laid out in the plane, to look at who stands beside whom."""

from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch.nn import functional

from clipreid_lib.pages.style import escape
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.score_names import name_attribute

FEW = 10  # colours that can be told apart at once
STEPS = 500  # of t-SNE: 1,000 keep no more neighbours (trustworthiness .999 with both) and take twice the time


def lay_out(embeddings: Embeddings, method: Literal["pca", "tsne"]) -> np.ndarray:
    """Lay normalised embeddings out in the plane.

    Args:
        embeddings: (N, D), at least three images.
        method: ``pca`` keeps large distances (Pearson 1901); ``tsne`` keeps neighbours and nothing else (van der Maaten
            and Hinton 2008): how far groups lie apart, and how large they are, says nothing.

    Returns:
        (N, 2).
    """
    values = functional.normalize(embeddings.values, dim=1).numpy()
    wanted = 2 if method == "pca" else 50  # t-SNE's authors, too, let PCA take the noise out first
    flat = PCA(min(wanted, *values.shape), random_state=0).fit_transform(values)
    if method == "pca":
        return flat
    perplexity = min(30, (len(values) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", max_iter=STEPS, random_state=0).fit_transform(flat)


def choose_columns(images: pd.DataFrame) -> list[str]:
    """Choose what a map of these images is worth colouring by: person, aspect, and the first attribute that varies."""
    others = [name for name in ("aspect", "skin_color", "gender", "session", "camera") if name in images]
    varying = [name for name in others if images[name].nunique() > 1]
    return ["identity", *varying[: 2 if "aspect" in varying else 1]]


def draw_maps(layouts: dict[str, np.ndarray], images: pd.DataFrame, columns: list[str]) -> plt.Figure:
    """Draw maps, one row per layout and one panel per column of the images' table, coloured by it.

    Layouts are (N, 2), by what is written beside the row. Of a column with more than ten values, ten evenly spaced ones
    are coloured and the others stay grey.
    """
    size = (4.6 * len(columns), 4.2 * len(layouts))
    figure, axes = plt.subplots(len(layouts), len(columns), figsize=size, squeeze=False)
    for (layout, points), row in zip(layouts.items(), axes, strict=True):
        row[0].set_ylabel(layout)
        for place, column in zip(row, columns, strict=True):
            _scatter(place, points, images[column].astype(object).fillna("unknown").astype(str).to_numpy())
            place.set_title(name_attribute(column))
    return figure


def draw_anchors(panels: dict[str, torch.Tensor], identities: list, anchors: torch.Tensor, names: list) -> plt.Figure:
    """Draw text anchors among images, laid out by PCA: a star of each colour among the dots of the same person.

    Text and images lie in two separate cones of CLIP's space (Liang et al. 2022, arXiv 2203.02053). Each side is
    therefore normalised and centred on its own mean first; without that the stars would be one heap beside another.
    The axes of later panels point the way in which the points agree with the first panel's.

    Args:
        panels: (N, D) projected features of the same images, by what is written above the panel.
        identities: (N) whose they are.
        anchors: (P, D) text features.
        names: (P) whose they are; ten evenly spaced ones are coloured.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.4), squeeze=False)
    first: np.ndarray | None = None  # (N + P, 2) of the first panel
    for place, (title, images) in zip(axes[0], panels.items(), strict=True):
        sides = [functional.normalize(side.float(), dim=1) for side in (images, anchors)]
        centred = [(side - side.mean(dim=0)).numpy() for side in sides]
        plane = PCA(2, random_state=0).fit(np.concatenate(centred))  # spanned by both, so that neither is flattened
        points = plane.transform(np.concatenate(centred))  # (N + P, 2)
        first = points if first is None else first
        points *= np.where((points * first).sum(axis=0) < 0, -1, 1)  # an axis of PCA may point either way
        dots, stars = np.split(points, [len(images)])
        colours = _scatter(place, dots, np.array([str(name) for name in identities]))
        coloured = np.array([str(name) in colours for name in names])
        look = {"marker": "*", "s": 110, "linewidths": 0.7}
        place.scatter(*stars[~coloured].T, color="0.9", edgecolors="0.6", zorder=2, **look)
        own = [colours[str(name)] for name in np.array(names)[coloured]]
        place.scatter(*stars[coloured].T, color=own, edgecolors="black", zorder=3, **look)
        place.set_title(title)
    return figure


def _scatter(axes: plt.Axes, points: np.ndarray, values: np.ndarray) -> dict[str, tuple]:
    """Draw points in grey, and at most ten evenly spaced values in colours of their own; return those."""
    there = sorted(set(values), key=lambda text: (len(text), text))
    few = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, FEW).astype(int))]
    colours = dict(zip(few, sns.color_palette("colorblind", FEW), strict=False))
    axes.scatter(points[:, 0], points[:, 1], s=8, color="0.85", linewidths=0)
    for value, colour in colours.items():
        mine = points[values == value]
        axes.scatter(mine[:, 0], mine[:, 1], s=16, color=colour, linewidths=0, label=escape(value))
    axes.set(xticks=[], yticks=[])
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.5)
    return colours
