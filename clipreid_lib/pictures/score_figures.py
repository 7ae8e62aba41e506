"""Figures of scores: CMC, score distributions, ROC and DET, subgroups, and the matrix of aspects and data sets."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from scipy import stats

from clipreid_lib.pictures.style import HALF, WIDE, plain
from clipreid_lib.scoring.evaluation import Evaluation
from clipreid_lib.scoring.subgroups import FEWEST
from clipreid_lib.scoring.verification import Pairs, Verification

RATES = (0.001, 0.01, 0.05, 0.2, 0.5)  # ticks of the DET axes


def cmc(named: dict[str, Evaluation], top: int = 20) -> plt.Figure:
    """Draw CMC curves: the mean over draws, with a band of one standard deviation."""
    figure, axes = plt.subplots(figsize=HALF)
    for name, scores in named.items():
        curve = scores.cmc[:, :top]
        ranks = np.arange(1, curve.shape[1] + 1)
        mean, spread = curve.mean(axis=0), curve.std(axis=0, ddof=1) if len(curve) > 1 else 0
        (line,) = axes.plot(ranks, mean, marker=".", label=name)
        axes.fill_between(ranks, mean - spread, np.minimum(mean + spread, 1), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="rank", ylabel="share of queries with a hit by then", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    return figure


def score_distributions(pairs: Pairs) -> plt.Figure:
    """Draw the similarity of genuine and impostor pairs, each as a density of its own."""
    figure, axes = plt.subplots(figsize=HALF)
    scores, genuine = pairs.table["score"], pairs.table["genuine"]
    bins = np.linspace(scores.min(), scores.max(), 60)
    for kind, label in ((~genuine, "impostor"), (genuine, "genuine")):
        sns.histplot(
            scores[kind],
            bins=bins,
            stat="density",
            ax=axes,
            label=f"{label} ({kind.sum():,})",
            element="step",
            alpha=0.4,
        )
    axes.set(xlabel="cosine similarity", ylabel="density")
    axes.legend()
    return figure


def roc_and_det(named: dict[str, Verification]) -> plt.Figure:
    """Draw ROC (true against false positive rate, the latter on a log axis) and DET (both errors, normal deviates).

    A DET curve is straight where both kinds of score are normally distributed (Martin et al. 1997). Curves end at the
    lowest false positive rate that one impostor pair makes.
    """
    figure, (roc, det) = plt.subplots(1, 2, figsize=(WIDE[0], 4.2))
    deviate = stats.norm.ppf
    for name, each in named.items():
        # A few thousand points of possibly millions, evenly spread on the log axis, the first false positive included.
        rising = np.geomspace(1 / each.impostor, 1, 3000)
        seen = np.unique(np.searchsorted(each.fpr, rising * (1 + 1e-9), side="right") - 1)
        seen = seen[each.fpr[seen] > 0]
        label = f"{name}, EER {100 * each.eer:.1f} %"
        (line,) = roc.plot(each.fpr[seen], each.tpr[seen], drawstyle="steps-post", label=label)
        tiny = 0.5 / max(each.genuine, each.impostor)  # half an error: normal deviates have no place for none
        both = [deviate(np.clip(rate[seen], tiny, 1 - tiny)) for rate in (each.fpr, 1 - each.tpr)]
        det.plot(*both, color=line.get_color(), label=label)
        det.plot(*2 * [[deviate(each.eer)]], "o", color=line.get_color(), markersize=4)
    roc.set(xscale="log", xlabel="false positive rate", ylabel="true positive rate")
    roc.set_ylim(0, 1.3)  # room for the legend
    roc.set_yticks(np.linspace(0, 1, 6))
    roc.legend(loc="upper left")
    for axis in (det.xaxis, det.yaxis):
        axis.set_major_locator(FixedLocator(deviate(RATES)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FixedFormatter([f"{100 * rate:g} %" for rate in RATES]))
    limits = deviate((0.0005, 0.7))
    det.plot(limits, limits, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
    det.set(xlim=limits, ylim=limits, xlabel="false positive rate", ylabel="false negative rate", aspect="equal")
    return figure


def subgroup_rates(table: pd.DataFrame, score: str = "rank1", label: str = "rank-1") -> plt.Figure:
    """Draw one score of every subgroup with its interval; small groups are named with their count alone."""
    figure, axes = plt.subplots(figsize=(WIDE[0], 0.8 + 0.26 * len(table)))
    axes.grid(False, axis="y")
    names = []
    for place, ((attribute, group), row) in enumerate(table.iterrows()):
        people = int(row["identities"])
        names.append(plain(f"{attribute}: {group} ({people} people)"))
        if np.isnan(row[score]):
            axes.text(0.01, place, f"fewer than {FEWEST} people: no rate", va="center", color="0.4", fontsize="small")
            continue
        ends = [[row[score] - row[f"{score}_low"]], [row[f"{score}_high"] - row[score]]]
        axes.errorbar(row[score], place, xerr=np.maximum(ends, 0), fmt="o", color="C0", capsize=3)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=f"{label}, 95 % interval over people", xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
    return figure


def matrix(table: pd.DataFrame, label: str) -> plt.Figure:
    """Draw a matrix of scores in per cent: rows trained, columns tested."""
    figure, axes = plt.subplots(figsize=(2.6 + 1.1 * table.shape[1], 1.4 + 0.5 * len(table)))
    table = table.rename(index=plain, columns=plain)
    sns.heatmap(table, annot=True, fmt=".1f", vmin=0, vmax=100, cmap="crest", ax=axes, cbar_kws={"label": label})
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(axis="x", rotation=30)
    return figure
