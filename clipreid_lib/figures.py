"""Figures of the notebooks: one style, one function per picture, each saved beside the run's results."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator
from PIL import Image

from clipreid_lib.files import replacing

WIDE, HALF = (9.0, 3.2), (4.6, 3.4)  # inches: a full text width, and half of one


def style() -> None:
    """Set the look all figures share: seaborn's white grid and its colour-blind-safe palette."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.1)
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 200, "pdf.fonttype": 42, "figure.autolayout": True})


def plain(text: str) -> str:
    """Write a name from a data set so that matplotlib does not read a dollar sign as mathematics."""
    return text.replace("$", r"\$")


def keep(figure: plt.Figure, path: Path) -> plt.Figure:
    """Save a figure and hand it back for the notebook to show once."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], bbox_inches="tight")
    plt.close(figure)
    return figure


def keep_image(image: Image.Image, path: Path) -> Image.Image:
    """Save a drawn picture and hand it back for the notebook to show."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
    return image


def curves(log: pd.DataFrame) -> plt.Figure:
    """Draw a training log: loss terms at the left, shares (accuracies, validation scores) at the right."""
    shares = [name for name in log if name.startswith("validation_") or name.endswith("accuracy")]
    losses = [name for name in log if name not in {"epoch", "lr", "seconds", *shares}]
    panels = [(names, label) for names, label in ((losses, "loss"), (shares, "share")) if names]
    figure, axes = plt.subplots(1, len(panels), figsize=WIDE if len(panels) > 1 else HALF, squeeze=False)
    for (names, label), place in zip(panels, axes[0], strict=True):
        for name in names:
            place.plot(log["epoch"], log[name], marker=".", label=name.replace("_", " "))
        place.set(xlabel="epoch", ylabel=label)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set_ylim(bottom=0)
        place.legend()
    return figure


def anchor_similarity(anchors: np.ndarray, identities: list[int]) -> plt.Figure:
    """Draw the cosine similarity between the identities' text anchors: the redder, the harder to tell apart."""
    unit = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    figure, axes = plt.subplots(figsize=HALF)
    sns.heatmap(unit @ unit.T, vmin=-1, vmax=1, cmap="vlag", square=True, ax=axes, cbar_kws={"label": "cosine"})
    step = max(1, len(identities) // 8)
    places = np.arange(0, len(identities), step)
    axes.set_xticks(places + 0.5, [identities[i] for i in places], rotation=90)
    axes.set_yticks(places + 0.5, [identities[i] for i in places], rotation=0)
    axes.set(xlabel="identity", ylabel="identity")
    return figure
