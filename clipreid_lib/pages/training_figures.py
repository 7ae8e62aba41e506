"""Figures of training: the log's curves, and how alike the identities' anchors have become."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from clipreid_lib.pages.style import HALF, WIDE

NAMES = {"identity": "identity loss"}  # of log columns; others are written as they are


def draw_curves(log: pd.DataFrame) -> plt.Figure:
    """Draw a training log: loss terms at the left, shares (accuracies, validation scores) at the right."""
    shares = [name for name in log if name.startswith("validation_") or name.endswith("accuracy")]
    losses = [name for name in log if name not in {"epoch", "lr", "seconds", *shares}]
    panels = [(names, label) for names, label in ((losses, "loss"), (shares, "share")) if names]
    figure, axes = plt.subplots(1, len(panels), figsize=WIDE if len(panels) > 1 else HALF, squeeze=False)
    for (names, label), place in zip(panels, axes[0], strict=True):
        for name in names:
            place.plot(log["epoch"], log[name], marker=".", label=NAMES.get(name, name.replace("_", " ")))
        place.set(xlabel="epoch", ylabel=label)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set_ylim(bottom=0)
        place.legend()
    return figure


def draw_anchor_similarity(anchors: np.ndarray, names: list[str]) -> plt.Figure:
    """Draw the cosine similarity between named text anchors (P, D): the redder, the harder to tell apart."""
    unit = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    side = float(np.clip(0.13 * len(names), 3, 6.5))  # inches of the square; the rest is for what is written
    figure, axes = plt.subplots(figsize=(side + 1.8, side + 0.7))
    bar = {"label": "cosine", "shrink": 0.8}
    sns.heatmap(unit @ unit.T, vmin=-1, vmax=1, cmap="vlag", square=True, ax=axes, cbar_kws=bar)
    places = np.arange(0, len(names), max(1, int(np.ceil(len(names) / (4 * side)))))  # four to the inch
    axes.set_xticks(places + 0.5, [names[i] for i in places], rotation=90)
    axes.set_yticks(places + 0.5, [names[i] for i in places], rotation=0)
    axes.set(xlabel="identity", ylabel="identity")
    return figure
