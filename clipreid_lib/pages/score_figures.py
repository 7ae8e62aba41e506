"""Figures of scores: CMC, score distributions, ROC and DET, subgroups, and the matrix of aspects and data sets."""

import itertools
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from scipy import stats

from clipreid_lib.base.errors import counted
from clipreid_lib.pages.style import HALF, WIDE, escape
from clipreid_lib.scores.score_names import ENDS, SHOWN, format_share
from clipreid_lib.scores.subgroups import FEWEST

if TYPE_CHECKING:  # slow to import, and reports need no network
    from clipreid_lib.scores.verification import Verification

POSITIVE = "false positive rate, per cent"
MARKS = "osD^v<>P"  # of curves, beside their colours
TALL = (WIDE[0], 4.2)  # inches
RATES = (0.001, 0.01, 0.05, 0.2, 0.5)  # ticks of the DET axes


def draw_cmc(curves: dict[str, np.ndarray]) -> plt.Figure:
    """Draw CMC curves, (ranks,) each, by what is written beside them.

    The axis begins at the multiple of ten below everything drawn, and says so: above it, curves have more room.
    """
    figure, axes = plt.subplots(figsize=TALL)
    lowest, last = 100.0, 1
    for (name, shares), mark in zip(curves.items(), itertools.cycle(MARKS), strict=False):
        curve = 100 * np.asarray(shares)
        axes.plot(np.arange(1, len(curve) + 1), curve, marker=mark, markersize=4, label=name)
        lowest, last = min(lowest, np.min(curve)), max(last, len(curve))
    start = max(0, min(90, 10 * np.floor(lowest / 10)))
    axes.set(xlabel="rank", xticks=sorted({1, *range(5, last, 5), last}))
    axes.set(ylabel="% of queries with a hit by then", ylim=(start, 100 + 0.02 * (100 - start)))
    if start:
        axes.set_ylabel(f"% of queries with a hit by then\n(the axis starts at {start:.0f})")
    _legend_above(figure, list(curves))
    return figure


def draw_score_distributions(pairs: pd.DataFrame, scale: str = "cosine similarity") -> plt.Figure:
    """Draw the scores of genuine and impostor pairs, each as a density of its own; ``scale`` says what scores are."""
    figure, axes = plt.subplots(figsize=HALF)
    scores, genuine = pairs["score"], pairs["genuine"]
    look = {"bins": 60, "binrange": (scores.min(), scores.max()), "stat": "density", "element": "step", "alpha": 0.4}
    for kind, label in ((~genuine, "impostor"), (genuine, "genuine")):
        sns.histplot(x=scores[kind], weights=pairs["weight"][kind], ax=axes, label=f"{label} ({kind.sum():,})", **look)
    axes.set(xlabel=scale, ylabel="density")
    axes.legend()
    return figure


def draw_roc_and_det(named: "dict[str, Verification]") -> plt.Figure:
    """Draw ROC (true against false positive rate, the latter on a log axis) and DET (both errors, normal deviates).

    A DET curve is straight where both kinds of score are normally distributed (Martin et al. 1997). Curves end at the
    lowest false positive rate that one impostor pair makes. One whose EER is not measurable is named and not drawn: of
    a few people it would be a step or two.
    """
    figure, (roc, det) = plt.subplots(1, 2, figsize=TALL)
    deviate, labels = stats.norm.ppf, []
    for name, each in named.items():
        if each.eer_lacks:
            labels.append(f"{name}, not drawn: EER {each.eer_lacks}")
            roc.plot([], [], linestyle="none", label=labels[-1])
            continue
        # A few thousand points of possibly millions, evenly spread on the log axis, the first false positive included.
        rising = np.geomspace(1 / each.impostor, 1, 3000)
        seen = np.unique(np.searchsorted(each.fpr, rising * (1 + 1e-9), side="right") - 1)
        seen = seen[each.fpr[seen] > 0]
        labels.append(f"{name}, EER {format_share(each.eer)} %")
        (line,) = roc.plot(100 * each.fpr[seen], 100 * each.tpr[seen], drawstyle="steps-post", label=labels[-1])
        tiny = 0.5 / max(each.genuine, each.impostor)  # half an error: normal deviates have no place for none
        both = [deviate(np.clip(rate[seen], tiny, 1 - tiny)) for rate in (each.fpr, 1 - each.tpr)]
        det.plot(*both, color=line.get_color())
        det.plot(*2 * [[deviate(max(each.eer, tiny))]], "o", color=line.get_color(), markersize=4)
    roc.set(xscale="log", xlabel=POSITIVE, ylabel="true positive rate, per cent", ylim=(0, 102))
    for axis in (roc.xaxis, roc.yaxis):
        axis.set_major_formatter("{x:g}")
    _legend_above(figure, labels)
    for axis in (det.xaxis, det.yaxis):
        axis.set_major_locator(FixedLocator(deviate(RATES)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FixedFormatter([f"{100 * rate:g}" for rate in RATES]))
    limits = deviate((0.0005, 0.7))
    det.plot(limits, limits, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
    det.set(xlim=limits, ylim=limits, xlabel=POSITIVE, ylabel="false negative rate, per cent", aspect="equal")
    return figure


def draw_intervals(table: pd.DataFrame, score: str, label: str, lacking: str = "") -> plt.Figure:
    """Draw a score of each row in per cent as a dot with its 95 % interval over people.

    The table is indexed by what is written beside a dot, and holds shares in [0, 1], with ``<score>_low`` and
    ``<score>_high``. ``lacking`` is written in place of a dot that there is no score for.
    """
    figure, axes = plt.subplots(figsize=(WIDE[0] if lacking else HALF[0], 0.8 + 0.3 * len(table)))
    values, low, high = 100 * table[[f"{score}{end}" for end in ENDS]].to_numpy(float).T
    bars = np.nan_to_num(np.maximum([values - low, high - values], 0))  # one person has no interval
    axes.errorbar(values, range(len(table)), xerr=bars, fmt="o", color="C0", capsize=3)
    for place in np.flatnonzero(np.isnan(values)):
        axes.text(1, float(place), lacking, va="center", color="0.4", fontsize="small")
    axes.grid(False, axis="y")
    axes.set(xlabel=f"{label}, per cent", ylim=(len(table) - 0.5, -0.5))
    axes.set_yticks(range(len(table)), [escape(str(name)) for name in table.index])
    return figure


def draw_subgroups(table: pd.DataFrame) -> plt.Figure:
    """Draw rank-1 of every subgroup of ``score_groups`` with its interval; small groups have their count alone."""
    people = table["identities"].astype(int)
    names = [f"{attribute}: {group} ({counted(count, 'person')})" for (attribute, group), count in people.items()]
    label, lacking = "rank-1, with 95 % interval over people", f"fewer than {FEWEST} people: no rate"
    figure = draw_intervals(table.set_axis(names), "rank1", label, lacking)
    figure.axes[0].set_xlim(0, 102)
    return figure


def draw_templates(rows: list[dict]) -> plt.Figure:
    """Draw rank-1 and mAP over the images that each person is enrolled with, and of one image for the same queries.

    Rows are those of :func:`clipreid_lib.scores.templates.measure_all`; others than with one image that asks, and those
    without scores, are left out.
    """
    figure, panels = plt.subplots(1, 2, figsize=TALL)
    rows = [row for row in rows if row["query_images"] == 1 and "lacks" not in row]
    rows.sort(key=lambda row: row["gallery_images"])
    numbers = [row["gallery_images"] for row in rows]
    labels = ["all images of the template", "its first image, same people and queries"]
    for key, axes in zip(("rank1", "map"), panels, strict=True):
        values, low, high = 100 * np.array([[row[f"{key}{end}"] for row in rows] for end in ENDS], float)
        bars = np.nan_to_num(np.maximum([values - low, high - values], 0))  # one person has no interval
        axes.errorbar(numbers, values, yerr=bars, fmt="o-", capsize=3, label=labels[0])
        axes.plot(numbers, [100 * row.get("one", row)[key] for row in rows], "s--", color="0.5", label=labels[1])
        ticks = [f"{number}\n{counted(row['people'], 'person')}" for number, row in zip(numbers, rows, strict=True)]
        axes.set_xticks(numbers, ticks)
        axes.set(xlabel="images enrolled", ylabel=f"{SHOWN[key]}, per cent", ylim=(None, 101))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False
    )
    return figure


def draw_matrix(table: pd.DataFrame, label: str) -> plt.Figure:
    """Draw a matrix of scores in per cent: rows trained, columns tested; NaN leaves a cell empty."""
    figure, axes = plt.subplots(figsize=(2.6 + 1.1 * table.shape[1], 1.4 + 0.5 * len(table)))
    table = table.rename(index=escape, columns=escape)
    sns.heatmap(table, annot=True, fmt=".1f", vmin=0, vmax=100, cmap="crest", ax=axes, cbar_kws={"label": label})
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.tick_params(axis="y", rotation=0)
    plt.setp(axes.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    return figure


def _legend_above(figure: plt.Figure, labels: list[str]) -> None:
    """Name the curves above all panels, in as many columns as fit, so that names of any length leave the panels be."""
    columns = max(1, min(3, 90 // max(map(len, labels))))
    figure.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False)
