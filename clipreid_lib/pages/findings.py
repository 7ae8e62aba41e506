"""What a run's report shows of its results: scores, curves, pictures, failures, subgroups, published numbers."""

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.photographs import on_all_cores
from clipreid_lib.pages import report_pictures, tables, training_figures
from clipreid_lib.pages.evaluated import DAMAGED, Evaluated, reason
from clipreid_lib.pages.layout import Facts, Figure, Figures, Folded, Link, Links, Table, Words, missing
from clipreid_lib.scores import leaderboard, published, subgroups
from clipreid_lib.scores.results import DEFINITIONS

LOGS = {"prompts": "Stage 2a, learning the sentences", "encoder": "Training the image encoder"}
FIGURES = {
    "cmc": "CMC: the share of queries that have found their person by each rank, under the run's own protocol. The "
    "band is one standard deviation over draws.",
    "score_distributions": "Cosine similarity of genuine and impostor pairs, each as a density of its own. The less "
    "they overlap, the better one threshold could tell them apart.",
    "roc_det": "ROC (left) and DET (right, on normal-deviate axes) under every protocol; dots mark the EER. A curve "
    "ends where no impostor pair is left to be wrong about.",
    "embedding_map": "Everybody tested, in all aspects, by the run's embedding, laid out by PCA, which keeps large "
    "distances, and by t-SNE, which keeps neighbours and nothing else: how far apart groups lie says nothing there.",
    "hardest": "The hardest queries of draw 0: query at the left, then its gallery by similarity. A blue tick is the "
    "right person, a vermillion cross another; grey is the true match where it ranks beyond the row's end.",
    "spread": "Six queries of draw 0 from the hardest to the easiest; failures alone would mislead.",
    "before_and_after": "The query that gained most between the pretrained encoder and this run, and the one that "
    "lost most; of a run that trains no image encoder, the hardest query alone.",
    "looked_at": "A query and the image it ranked first, the hardest and the easiest: where they are looked at, and "
    "which of their places are alike. The lines below the picture say how it was made and what it cannot show.",
    "anchor_map": "Training images (dots) and their people's text anchors (stars) before fine-tuning and, where the "
    "image encoder was trained, after, laid out by PCA, images and texts centred apart.",
    "asked_in_words": "Test images nearest to a sentence, by the encoder as it was pretrained.",
    "anchor_similarity": "Cosine similarity between the training people's text anchors: the redder, the harder to tell "
    "apart.",
    "anchors": "An image of a training person, then the training images nearest to that person's text anchor.",
    "neighbours_before": "Training images and their nearest neighbours before training.",
    "neighbours_after": "The same images' neighbours after training. These were trained on: it says that the encoder "
    "learned, not that it knows strangers.",
}
EXPECTED = (
    "cmc",
    "roc_det",
    "score_distributions",
    "subgroups",
    "embedding_map",
    "hardest",
    "spread",
    "before_and_after",
    "looked_at",
)
CAVEAT = (
    "What such a table can and cannot support: it can show that a difference is large enough to look into, where two "
    "intervals lie far apart. It cannot show why: groups differ in more than their name, and the labels are someone's "
    "reading of a photograph. With a handful of people per group most real differences go unseen; overlapping "
    "intervals are no proof of fairness; of a dozen groups one will differ by chance; and nothing carries over to "
    f"other cameras or populations. Groups of fewer than {subgroups.FEWEST} people have a count and no rate."
)


def scores(one: Evaluated) -> list:
    """Return every score under every protocol, why others are left out, and what each score means."""
    blocks: list = [tables.by_protocol(one.protocols)]
    left_out = one.metrics.get("left_out")
    if left_out:
        blocks.append(Facts({f"{name}: left out": str(why) for name, why in left_out.items()}))
    if one.metrics.get("closed_set"):
        rows = [[how, f"{100 * share:.1f}"] for how, share in one.metrics["closed_set"].items()]
        caption = "Closed set, per cent: held-out images of training people given to the right person."
        blocks.append(Table(["by", "right"], rows, caption))
    definitions = one.metrics.get("definitions") or DEFINITIONS
    return [*blocks, Folded("Definitions", [Facts({str(name): str(text) for name, text in definitions.items()})])]


def other_rows(one: Evaluated) -> list:
    """Return the scores of the run's other embeddings, and of its own compared in other ways."""
    shown: list = [
        Words(
            "The first row is the run's own. The others are other embeddings of the same images (stage 0: the encoder "
            "before training), or the own embedding compared in another way (re-ranked: by k-reciprocal neighbours, "
            "with the other queries' help; expanded: by alpha query expansion). Per cent, mean ± deviation over draws."
        )
    ]
    for number, (protocol, scores) in enumerate(one.protocols.items()):
        table = tables.other_rows(scores.get("rows", {}), f"Under protocol {protocol}.")
        shown.append(table if not number else Folded(f"Under protocol {protocol}", [table]))
    return shown


def curves(one: Evaluated) -> list:
    """Return the training logs, drawn."""
    logs = sorted(one.run.logs.glob("*.csv"), key=lambda path: (path.stem != "prompts", path.stem))
    if not logs:
        trains = one.run.params.learns_prompts or one.run.params.trains_encoder
        text = "The training logs are not there." if trains else "This run trains nothing, so there is no curve."
        return [missing(text) if trains else Words(text)]
    blocks, figures = [], []
    for path in logs:
        try:
            log = pd.read_csv(path)
            caption = f"{LOGS.get(path.stem, path.stem)}: {len(log)} epochs, {log['seconds'].sum():.0f} s."
            figures.append(report_pictures.drawn(training_figures.curves, caption, log))
        except DAMAGED as error:
            blocks.append(missing(f"train_logs/{path.name}: {reason(error)}."))
    return [Figures(figures), *blocks]


def figures(one: Evaluated) -> list:
    """Return the figures that the notebooks drew, each with what it is."""
    there = {path.stem: path for path in sorted((one.run.folder / "figures").glob("*.png"))}
    if one.run.params.variant != "clipid":
        there.pop("anchor_map", None)  # it says in words that there are no anchors
    names = [name for name in FIGURES if name in there]
    names += [name for name in there if name not in FIGURES and name != "subgroups" and not name.endswith("curves")]

    def embedded(name: str) -> Figure | str:
        try:
            return report_pictures.embed(there[name], FIGURES.get(name, f"{name.replace('_', ' ')}, by the run."))
        except UserError as error:
            return str(error)

    found = list(on_all_cores(embedded, names))
    shown = [each for each in found if isinstance(each, Figure)]
    lost = [f"{name}.png" for name in EXPECTED if name not in there]
    lost += [each for each in found if isinstance(each, str)]
    blocks: list = [Figures(shown)] if shown else []
    return blocks + ([missing(f"Not there: {', '.join(lost)}.")] if lost else [])


def failures(one: Evaluated) -> list:
    """Return how much is wrong and who and what is hardest, with a link to the page of every query."""
    gallery = one.run.folder / "gallery.html"
    blocks: list = []
    if gallery.is_file():
        blocks.append(Links([Link("Every query's ranked gallery", gallery.name, "to filter, sort and search")]))
    else:
        blocks.append(missing("gallery.html, the page of every query, is not there."))
    try:
        answers = one.answers
    except UserError as error:
        return [*blocks, missing(f"The hardest people and queries: {reason(error)}.")]
    queries = answers.per_query[answers.per_query["first_hit"] > 0]
    wrong = queries.assign(wrong=queries["first_hit"] > 1)
    people = wrong.groupby("identity")["wrong"].agg(["sum", "size"])
    blocks.append(
        Words(
            f"All draws together, {wrong['wrong'].sum():,} of {len(wrong):,} answers "
            f"({100 * wrong['wrong'].mean():.1f} %) put another person first. "
            f"{(people['sum'] == 0).sum()} of {len(people)} people were never missed, and "
            f"half of what is wrong falls on {_half(people['sum'])}."
        )
    )
    hard = subgroups.hardest(answers)
    rows = [
        [
            str(who),
            f"{row['queries']:.0f}",
            f"{people.loc[who, 'sum']} of {people.loc[who, 'size']}",
            f"{row['rank-1']:.1f}",
            f"{row['mAP']:.1f}",
        ]
        for who, row in hard.iterrows()
        if who in people.index
    ]
    caption = "The hardest people, lowest mAP over all draws first; rank-1 and mAP in per cent."
    blocks.append(Table(["identity", "query images", "wrong at rank-1", "rank-1", "mAP"], rows, caption))
    images = wrong.groupby(["path", "identity"]).agg(
        missed=("wrong", "sum"), asked=("wrong", "size"), worst=("first_hit", "max"), ap=("average_precision", "mean")
    )
    worst = images.sort_values(["ap", "worst"], ascending=[True, False], kind="stable").head(10)
    rows = [
        [
            str(path),
            str(who),
            f"{row['missed']:.0f} of {row['asked']:.0f}",
            f"{row['worst']:.0f}",
            f"{100 * row['ap']:.1f}",
        ]
        for (path, who), row in worst.iterrows()
    ]
    table = Table(["image", "identity", "wrong at rank-1", "worst rank", "mAP"], rows, "Paths start at the data root.")
    return [*blocks, Folded("The hardest images", [table])]


def _half(missed: pd.Series) -> int:
    """Return how many people account for half of all misses."""
    ordered = np.sort(missed.to_numpy())[::-1].cumsum()
    return int((ordered < ordered[-1] / 2).sum() + (ordered[-1] > 0))


def by_subgroup(one: Evaluated) -> list:
    """Return the scores of subgroups, and what such a table cannot support."""
    blocks: list = [
        Words(CAVEAT),
        tables.plain(
            subgroups.in_words(groups(one)),
            "Per cent [95 % interval over people]. FPR and FNR, the false positive and false negative rate, are the "
            "group's at the threshold of everybody's EER.",
        ),
    ]
    picture = one.run.folder / "figures" / "subgroups.png"
    if picture.is_file():
        caption = "The same rank-1, drawn: groups whose bars overlap may well be equal."
        blocks.append(Figures([report_pictures.embed(picture, caption)]))
    return blocks


def groups(one: Evaluated) -> pd.DataFrame:
    """Read ``subgroups.csv`` as :func:`clipreid_lib.scores.subgroups.by_attribute` made it.

    Raises:
        UserError: it is not there or damaged.
    """
    try:
        named = {"attribute": str, "group": str}
        table = pd.read_csv(one.run.folder / "subgroups.csv", dtype=named, keep_default_na=False, na_values=[""])
        return table.set_index(["attribute", "group"]).astype({"identities": int, "queries": int})
    except FileNotFoundError:
        raise UserError("subgroups.csv is not there") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"subgroups.csv cannot be read ({' '.join(str(error).split())})") from None


def beside(*metrics: dict) -> list:
    """Return published results beside runs' scores, and what there is to say about them."""
    rows = leaderboard.rows(*metrics)
    said = "\n".join(dict.fromkeys(published.explained(rows).split("\n")))
    table = published.beside(rows)
    if table is None:
        return [Words(said)]
    table = table.rename(columns={"converted": "computed, not printed"})
    return [Words(said), tables.plain(table, "Per cent, best rank-1 first.", index=False)]
