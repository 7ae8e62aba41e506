"""What a run's report shows of its results: scores, curves, pictures, failures, subgroups, published numbers."""

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.photographs import on_all_cores
from clipreid_lib.pages import report_blocks as page
from clipreid_lib.pages import score_figures, training_figures
from clipreid_lib.params.schema import EXTERNAL
from clipreid_lib.scores import crossing, hand_table, leaderboard, published, template_table, thresholds
from clipreid_lib.scores.finished_run import ACROSS_ASPECTS, CHOICE, FinishedRun, read_table
from clipreid_lib.scores.score_names import (
    COUNTS,
    DEFINITIONS,
    EACH_PERSON,
    IN_DRAWS,
    SCORES,
    SHOWN,
    VOTES,
    format_score,
    format_share,
    name_rates,
    name_score,
)
from clipreid_lib.scores.subgroups import FEWEST, find_hardest, format_groups

LOGS = {"prompts": "Stage 2a, learning the sentences", "encoder": "Training the image encoder"}
EXPECTED = "cmc roc_det score_distributions subgroups embedding_map hardest spread before_and_after looked_at".split()
WRONG = "wrong at rank-1"


def show_scores(run: FinishedRun) -> list:
    """Return every score under every protocol, why others are left out, and what each score means."""
    names, metrics = list(run.protocols), run.metrics
    keys = dict.fromkeys(key for scores in run.protocols.values() for key in scores)
    ends = ("", EACH_PERSON, IN_DRAWS)
    scored = {f"{score}{end}": name_score(f"{score}{end}") for end in ends for score in SCORES}
    every = COUNTS | {"over": "mean over"} | scored | {"eer": "EER"}
    labels = {key: label for key, label in every.items() if key in keys} | name_rates(keys)
    rows = [[label, *(_write(scores, key) for scores in run.protocols.values())] for key, label in labels.items()]
    blocks: list = [page.Table(["", f"{names[0]} (the run's own)", *names[1:]], rows, page.TEXTS["scores"])]
    if metrics.get("left_out"):
        blocks.append(page.Facts({f"{name}: left out": why for name, why in metrics["left_out"].items()}))
    if crossed := metrics.get(ACROSS_ASPECTS):
        blocks.append(page.Table.of(crossing.tabulate(crossed).map(page.stack), page.TEXTS["across aspects"]))
    if metrics.get("closed_set"):
        rows = [[how, format_share(share)] for how, share in metrics["closed_set"].items()]
        blocks.append(page.Table(["by", "right"], rows, page.TEXTS["closed set"]))
    blocks += _show_validation(run)
    return [*blocks, page.Folded("Definitions", [page.Facts(metrics.get("definitions") or DEFINITIONS)])]


def _show_validation(run: FinishedRun) -> list:
    """Return scores of the people held out of training beside those of the test people, and what was chosen by them."""
    log = next((read_table(path, {}) for path in run.logs if path.stem == "encoder"), pd.DataFrame())
    if "validation_map" not in log:
        return []
    rows = [
        [SHOWN[score], format_share(log[f"validation_{score}"].iloc[-1]), format_score(run.own, score)]
        for score in ("rank1", "map")
    ]
    blocks: list = [page.Table(["", "validation people, last epoch", "test people"], rows, page.TEXTS["validation"])]
    if (path := run.folder / CHOICE).is_file():
        blocks.append(page.Table.of(read_table(path, {}).round(4), page.TEXTS["choice"], index=False))
    return blocks


def show_rows(run: FinishedRun) -> list:
    """Return the scores of the run's other embeddings, and of its own compared in other ways."""
    columns = {"over": "mean over"} | SHOWN | {key: name_score(key) for key in VOTES}
    found: dict[str, list] = {}
    for protocol, scores in run.protocols.items():
        rows = [[name, *(_write(row, key) for key in columns)] for name, row in scores.get("rows", {}).items()]
        found[protocol] = [page.Table(["", *columns.values()], rows, f"Under protocol {protocol}.")]
    return [page.Words(page.TEXTS["rows"]), *_fold_others(found)]


def show_templates(run: FinishedRun) -> list:
    """Return what several photographs of a person give, by protocol; nothing of older runs."""
    found: dict[str, list] = {}
    for protocol, scores in run.protocols.items():
        if rows := scores.get("templates"):
            table = template_table.tabulate(rows).map(page.stack)
            found[protocol] = [page.Table.of(table, f"Under protocol {protocol}.")]
            if any("lacks" not in row for row in rows):
                figure = page.draw(score_figures.draw_templates, page.TEXTS["templates curve"], rows)
                found[protocol].append(page.Figures([figure]))
    return [page.Words(page.TEXTS["templates"]), *_fold_others(found)] if found else []


def _fold_others(found: dict[str, list]) -> list:
    """Return blocks by protocol one after the other, those of all protocols but the first folded."""
    (_, first), *others = found.items()
    return [*first, *(page.Folded(f"Under protocol {protocol}", blocks) for protocol, blocks in others)]


def show_hand_test(run: FinishedRun) -> list:
    """Return the scores of changed photographs, and what was left out."""
    record = run.hand_test
    if not record:
        return [page.Words("Not asked: the scores are of an older version; notebook 04, done again, asks it.")]
    if "left_out" in record:
        return [page.Words(f"Not asked: {record['left_out']}.")]
    table = hand_table.tabulate(record).map(page.stack)
    return [page.Table.of(table, page.TEXTS["hand test"]), page.Words(hand_table.describe_refused(record))]


def show_thresholds(run: FinishedRun) -> list:
    """Return from which score on somebody counts as found, and what a score says about a pair."""
    learned = thresholds.read_thresholds(run.folder)
    if learned is None:
        return [page.Words("thresholds.json is not there, damaged or of another version.", missing=True)]
    ratio = thresholds.tabulate_ratio(learned["calibration"])
    return [
        page.Words(thresholds.describe(learned)),
        page.Table.of(thresholds.tabulate(learned), page.TEXTS["thresholds"]),
        page.Facts(ratio.to_dict()),
        page.Words(page.TEXTS["log-likelihood ratio"]),
    ]


def show_curves(run: FinishedRun) -> list:
    """Return the training logs, drawn."""
    if not run.logs:
        trains = run.params.learns_prompts or run.params.trains_encoder
        text = "The training logs are not there." if trains else "This run trains nothing, so there is no curve."
        return [page.Words(text, missing=trains)]
    figures = []
    for path in run.logs:
        log = read_table(path, {"epoch": int, "seconds": float})
        caption = f"{LOGS.get(path.stem, path.stem)}: {len(log)} epochs, {log['seconds'].sum():.0f} s."
        figures.append(page.draw(training_figures.draw_curves, caption, log))
    return [page.Figures(figures)]


def show_figures(run: FinishedRun) -> list:
    """Return the figures that the notebooks drew, each with what it is."""
    there = {path.stem: path for path in sorted((run.folder / "figures").glob("*.png"))}
    if run.params.variant != "clipid":
        there.pop("anchor_map", None)  # it says in words that there are no anchors
    expected = EXPECTED.copy()
    if run.params.variant == EXTERNAL:
        expected.remove("looked_at")
        there.pop("looked_at", None)  # it says in words that no network looks
    names = [name for name in page.FIGURES if name in there]
    elsewhere = {"subgroups", "templates", "prompt_curves", "encoder_curves"}  # on this page
    names += [name for name in there if name not in {*page.FIGURES, *elsewhere}]

    def take(name: str) -> page.Figure | str:
        try:
            return page.embed(there[name], page.FIGURES.get(name, f"{name.replace('_', ' ')}, by the run."))
        except UserError as error:
            return str(error)

    taken = list(on_all_cores(take, names))
    figures = [each for each in taken if isinstance(each, page.Figure)]
    lost = [f"{name}.png" for name in expected if name not in there]
    lost += [each for each in taken if isinstance(each, str)]
    blocks: list = [page.Figures(figures)] if figures else []
    return blocks + ([page.Words(f"Not there: {', '.join(lost)}.", missing=True)] if lost else [])


def show_failures(run: FinishedRun) -> list:
    """Return how much is wrong and who and what is hardest, with a link to the page of every query."""
    blocks: list = [page.Words("gallery.html, the page of every query, is not there.", missing=True)]
    if (run.folder / "gallery.html").is_file():
        blocks = [page.Link("Every query's ranked gallery", "gallery.html", "to filter, sort and search")]
    queries = run.queries.dropna(subset="rank1")
    queries = queries.assign(missed=(1 - queries["rank1"]) * queries["weight"])
    people = queries.groupby("identity")[["missed", "weight"]].sum()
    worst = people["missed"].sort_values(ascending=False).cumsum()
    half = int((worst < worst.iloc[-1] / 2).sum() + (worst.iloc[-1] > 0))  # people that account for half of all misses
    said = (
        f"In the mean over {run.own['over']}, {people['missed'].sum():,.1f} of {people['weight'].sum():,.0f} answers "
        f"({format_share(people['missed'].sum() / people['weight'].sum())} %) put another person first. "
        f"{(people['missed'] < 1e-9).sum()} of {len(people)} people are never missed, and half of what is wrong falls "
        f"on {half}."
    )
    blocks.append(page.Words(said))
    misses = people["missed"].map("{:.1f}".format) + " of " + people["weight"].map("{:.0f}".format)
    hard = find_hardest(queries).join(misses.rename(WRONG), how="inner").rename(columns={"queries": "query images"})
    caption = "The hardest people, lowest mAP first; rank-1 and mAP in per cent."
    blocks.append(page.Table.of(hard[["query images", WRONG, "rank-1", "mAP"]], caption))
    images = queries.sort_values(["map", "rank1"], kind="stable").head(10)
    shown = {
        **{"image": images["path"], "identity": images["identity"]},
        **{SHOWN[score]: images[score].map(format_share) for score in ("rank1", "rank5", "map")},
    }
    table = page.Table.of(pd.DataFrame(shown), "Paths start at the data root.", index=False)
    return [*blocks, page.Folded("The hardest images", [table])]


def show_subgroups(run: FinishedRun) -> list:
    """Return the scores of subgroups, and what such a table cannot support."""
    caveat = page.Words(page.TEXTS["subgroups"].format(fewest=FEWEST))
    blocks: list = [caveat, page.Table.of(format_groups(run.groups).map(page.stack), page.TEXTS["rates of subgroups"])]
    picture = run.folder / "figures" / "subgroups.png"
    if picture.is_file():
        caption = "The same rank-1, drawn: groups whose bars overlap may well be equal."
        blocks.append(page.Figures([page.embed(picture, caption)]))
    return blocks


def show_published(*runs: FinishedRun) -> list:
    """Return published results beside runs' scores, and what there is to say about them."""
    rows = leaderboard.list_rows(*(run.metrics for run in runs))
    said = "\n".join(dict.fromkeys(published.explain(rows).split("\n")))
    table = published.set_beside(rows)
    if table is None:
        return [page.Words(said)]
    table = table.rename(columns={"converted": "computed, not printed"})
    return [page.Words(said), page.Table.of(table, "Per cent, best rank-1 first.", index=False)]


def _write(scores: dict, key: str) -> str:
    """Write a count or a score of a record, its interval on a line of its own."""
    if key in ("over", "enrolled"):
        return scores.get(key, "")
    if key in COUNTS and scores.get(key) is not None:
        return f"{scores[key]:,}"
    return page.stack(format_score(scores, key))
