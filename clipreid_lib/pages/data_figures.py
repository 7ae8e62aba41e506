"""Figures of notebook 01: who is in the data, when it was photographed, and what the protocol makes of it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from clipreid_lib.base.errors import counted
from clipreid_lib.data.contract import FLAGS
from clipreid_lib.data.manifest import ROLES, Manifest
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.pages.style import HALF, WIDE, draw_sentence
from clipreid_lib.scores.score_names import name_attribute

UNUSED = "not used"
COLOURS = dict(zip(ROLES, sns.color_palette("colorblind", len(ROLES)), strict=True)) | {UNUSED: (0.85, 0.85, 0.85)}


def draw_people_by_aspect(table: pd.DataFrame) -> plt.Figure:
    """Draw how many images there are of each person in each aspect, and write it; white where there is none."""
    counts = table.groupby(["aspect", "identity"]).size().unstack()  # NaN where a person lacks an aspect
    # In numbers as well: where all have equally many, one shade fills the figure.
    said = [
        f"{name}\n{counted(row.count(), 'person')}, {row.min():.0f}"
        + (f" to {row.max():.0f} images" if row.nunique() > 1 else f" image{'s' if row.max() > 1 else ''} each")
        for name, row in counts.iterrows()
    ]
    figure, axes = plt.subplots(figsize=(WIDE[0], 1.2 + 0.4 * len(counts)))
    most = max(2, counts.max(axis=None))
    bar = {"label": "images", "ticks": MaxNLocator(integer=True)}
    sns.heatmap(counts, cmap="crest", vmin=1, vmax=most, ax=axes, xticklabels=False, yticklabels=said, cbar_kws=bar)
    axes.set(xlabel=f"{counts.shape[1]} people, by number", ylabel="")
    axes.grid(False)
    axes.tick_params(axis="y", rotation=0)
    return figure


def draw_attributes(table: pd.DataFrame) -> plt.Figure:
    """Draw how the people are spread over gender, skin colour and age, and how many images show what."""
    people = table.drop_duplicates("identity")
    named = [name for name in ("gender", "skin_color", "age") if name in table]
    shown = [name for name in FLAGS if name in table]
    if not named and not shown:
        return draw_sentence("This data set says nothing about its people but who they are.")
    figure, axes = plt.subplots(1, len(named) + bool(shown), figsize=(WIDE[0], WIDE[1]), squeeze=False)
    for place, name in zip(axes[0], named, strict=False):
        if name == "age":
            sns.histplot(people["age"].dropna().astype(float), binwidth=5, ax=place)
            place.set(xlabel="years", ylabel="people", title="age")
        else:
            counts = people[name].value_counts(ascending=True)
            place.barh(counts.index.astype(str), counts.to_numpy())
            place.set(xlabel="people", title=name_attribute(name))
            place.grid(axis="y", visible=False)
        (place.yaxis if name == "age" else place.xaxis).set_major_locator(MaxNLocator(5, integer=True))
    if shown:
        shares = 100 * table.groupby("aspect")[shown].mean()
        shares.columns = [name_attribute(name) for name in shown]
        shares.T.plot.barh(ax=axes[0, -1], legend=len(shares) > 1)
        axes[0, -1].set(xlabel="% of images", ylabel="", title="images that show")
        axes[0, -1].grid(axis="y", visible=False)
        if len(shares) > 1:
            axes[0, -1].legend(fontsize="x-small", title=None)
    return figure


def draw_sessions(table: pd.DataFrame) -> plt.Figure:
    """Draw how many sessions, each captured in one burst, a hand (person and aspect) has, and images a session."""
    known = table.dropna(subset=["session"])
    if known.empty:
        return draw_sentence("This data set does not say when its images were taken.")
    held = known.groupby(["identity", "aspect"])["session"].nunique()
    images = known.groupby(["identity", "aspect", "session"]).size()
    figure, axes = plt.subplots(1, 2, figsize=WIDE)
    labels = ("sessions of a hand (each captured in one burst)", "images of a session")
    whats = ("hands (person and aspect)", "sessions")
    for place, numbers, label, what in zip(axes, (held, images), labels, whats, strict=True):
        sns.histplot(numbers.to_numpy(), discrete=True, ax=place)
        place.set(xlabel=label, ylabel=what, xlim=(0, numbers.max() + 0.6))  # bars end at 0.5; no tick follows
        for axis in (place.xaxis, place.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_split(manifest: Manifest, table: pd.DataFrame) -> plt.Figure:
    """Draw what part each person of a data set's table plays in each aspect: the protocol at a glance."""
    order = [*ROLES, UNUSED]
    part = manifest.images.groupby(["aspect", "subject"])["role"].agg(lambda roles: min(map(order.index, roles)))
    everyone = pd.MultiIndex.from_frame(table[["aspect", "identity"]].drop_duplicates(), names=["aspect", "subject"])
    grid = part.reindex(everyone, fill_value=order.index(UNUSED)).unstack().astype(float)  # NaN: no image at all
    figure, axes = plt.subplots(figsize=(WIDE[0], 1.3 + 0.4 * len(grid)))
    colours = ListedColormap([COLOURS[role] for role in order])
    norm = BoundaryNorm(np.arange(len(order) + 1) - 0.5, len(order))
    sns.heatmap(grid, cmap=colours, norm=norm, ax=axes, cbar=False, xticklabels=False)
    axes.grid(False)
    there = sorted({int(code) for code in np.unique(grid) if not np.isnan(code)})
    patches = [Patch(color=COLOURS[order[code]], label=order[code]) for code in there]
    axes.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(patches), frameon=False)
    axes.set(xlabel=f"{grid.shape[1]} people, by number", ylabel="")
    axes.tick_params(axis="y", rotation=0)
    return figure


def draw_role_counts(manifest: Manifest) -> plt.Figure:
    """Draw how many images each person has, coloured by the part they play."""
    images = manifest.images[~manifest.images["role"].isin(["distractor", "junk"])]
    people = images.groupby(["subject", "role"]).size().rename("images").reset_index()
    people["place"] = people["role"].map(ROLES.index)
    people = people.sort_values(["place", "images"], ascending=[True, False]).reset_index(drop=True)
    figure, axes = plt.subplots(figsize=WIDE)
    for role, group in people.groupby("role", sort=False):
        label = f"{role} ({counted(len(group), 'person')}, {counted(group['images'].sum(), 'image')})"
        axes.bar(group.index, group["images"], width=1.0, label=label, color=COLOURS[role])
    axes.set(xlabel="people, sorted within their part", ylabel="images", xticks=[])
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def draw_image_statistics(seen: pd.DataFrame, manifest: Manifest) -> plt.Figure:
    """Draw brightness and contrast of the parts' images: where these differ, a model may learn the difference.

    ``seen`` is from :func:`clipreid_lib.data.inspection.inspect`.
    """
    roles = seen["path"].map(manifest.images.set_index("path")["role"])
    figure, axes = plt.subplots(1, 2, figsize=WIDE)
    for place, name in zip(axes, ("brightness", "contrast"), strict=True):
        for role in ("train", "validation", "test", "distractor"):
            values = seen.loc[roles == role, name].dropna()
            if values.nunique() > 1:  # a density needs two
                sns.kdeplot(values, ax=place, label=role, color=COLOURS[role], cut=0)
        place.set(xlabel=f"{name} (grey, 0 to 1)", ylabel="density")
        place.xaxis.set_major_locator(MaxNLocator(6))
    axes[0].legend()
    return figure


def draw_mean_images(table: pd.DataFrame, photographs: Photographs) -> plt.Figure:
    """Draw the average image of each aspect, of at most 200: sharp where hands are always laid in the same place."""
    groups = list(table.groupby("aspect"))
    figure, axes = plt.subplots(1, len(groups), figsize=(max(HALF[0], 2.2 * len(groups)), 2.6), squeeze=False)
    for place, (aspect, images) in zip(axes[0], groups, strict=True):
        chosen = images.iloc[np.unique(np.linspace(0, len(images) - 1, 200).astype(int))]
        place.imshow(photographs.load(chosen, 96).mean(axis=0).transpose(1, 2, 0) / 255)  # (96, 96, 3)
        number = len(images) if len(chosen) == len(images) else f"{len(chosen)} of {len(images)}"
        place.set(title=f"{aspect}\n{number} images", xticks=[], yticks=[])
    return figure
