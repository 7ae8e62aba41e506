"""Everything notebook 04 measures, on embeddings whose answers are known."""

import json
import subprocess
import sys
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import protocols
from clipreid_lib.data.datasets import load_images
from clipreid_lib.pages import score_figures
from clipreid_lib.params.run_params import Params
from clipreid_lib.runs import across, embeddings, loading
from clipreid_lib.scores import (
    assessment,
    comparison,
    expectation,
    finished_run,
    leaderboard,
    open_set,
    score_names,
    subgroups,
)
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.verification import list_pairs, verify


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Thirty people of 11k Hands' kind, metadata alone."""
    from clipreid_lib.embedded import synthetic_hands

    root = tmp_path_factory.mktemp("people") / "set"
    # five images each, so that the EER has its hundred genuine pairs
    synthetic_hands.write_dataset(root, people=30, images_per_aspect=5, sessions=2, seed=1, size=(32, 24))
    return load_images("11k", root)


@pytest.fixture(scope="module")
def manifest(table):
    return protocols.build(table, "common", "dorsal_r", validation="none", draws=3)


def knowing(manifest, noise: float, seed: int = 0) -> Embeddings:
    """Embed each image as its person's direction and noise."""
    images, random = manifest.images, np.random.default_rng(seed)
    centres = {person: random.normal(size=16) for person in sorted(images["identity"].unique())}
    values = np.stack([centres[i] for i in images["identity"]]) + noise * random.normal(size=(len(images), 16))
    return Embeddings(images["path"].tolist(), torch.from_numpy(values).float())


def test_perfect_and_noisy_embeddings(manifest):
    found = assessment.assess({"image": knowing(manifest, 0), "noise": knowing(manifest, 9)}, manifest, Params())
    assert list(found.scores) == ["image", "image, re-ranked", "image, expanded", "noise"]
    numbers = found.numbers
    assert numbers["rank1"] == numbers["map"] == numbers["rank1_high"] == 1 and numbers["eer"] == 0
    people = manifest.test["identity"].nunique()
    # Nobody failed, and yet nothing is certain: the end is nearer than Clopper and Pearson's, and farther than half a
    # person's weight.
    low = numbers["rank1_low"]
    assert 0.025 ** (1 / people) < low == numbers["rank1_per_person_low"] < 1 - 0.5 / (people + 1)
    assert numbers["eer_low"] == 0 < numbers["eer_high"] < 0.2
    assert numbers["rank1_draws"] == 1 and numbers["rank1_draws_std"] == 0
    assert {name: row["over"] for name, row in numbers["rows"].items()} == {
        **{"image": "all galleries", "image, re-ranked": "3 draws", "image, expanded": "3 draws"},
        **{"noise": "all galleries"},
    }
    assert numbers["rows"]["noise"]["rank1"] < 0.6
    assert numbers["genuine_pairs"] + numbers["impostor_pairs"] == len(found.pairs)
    assert "not measurable" in numbers["tpr_at_fpr_0.0001"]
    json.dumps(numbers)  # travels as it is
    shown = assessment.tabulate_protocols({"common": found})
    assert shown.loc["rank-1", "common"] == f"100.0 [{100 * numbers['rank1_low']:.1f}, 100.0]"
    assert shown.loc["rank-1 per person", "common"] == shown.loc["rank-1", "common"]  # of all alike
    assert shown.loc["rank-1, draws", "common"] == "100.0 ± 0.0" and shown.loc["mean over", "common"] == "all galleries"
    assert (
        "needs 100,000 impostor pairs"
        in assessment.tabulate_errors({"common": found}).loc["TPR at FPR 0.0001", "common"]
    )


def test_each_pair_counts_once_whoever_asks(manifest):
    found = list_pairs(knowing(manifest, 1), manifest)
    ends = {frozenset(pair) for pair in zip(found["query"], found["gallery"], strict=True)}
    assert len(ends) == len(found) and all(len(pair) == 2 for pair in ends)
    # any two test images meet: of two people in some gallery, of one person where one of them asks
    assert ends == {frozenset(pair) for pair in combinations(manifest.test["path"], 2)}
    person = manifest.images.set_index("path")["identity"]
    same = person.loc[found["query"]].to_numpy() == person.loc[found["gallery"]].to_numpy()
    assert (same == found["genuine"]).all()
    embedding = dict(zip(knowing(manifest, 1).paths, knowing(manifest, 1).values, strict=True))
    query, gallery, score = found.iloc[7][["query", "gallery", "score"]]
    assert score == pytest.approx(float(torch.cosine_similarity(embedding[query], embedding[gallery], dim=0)), abs=1e-6)


def test_score_distributions_are_drawn_as_pairs_weigh(manifest):
    found = list_pairs(knowing(manifest, 1), manifest)
    found["weight"] *= 1 + 3 * (found["score"] > 0.3)
    drawn = score_figures.draw_score_distributions(found).axes[0].collections
    bins = np.linspace(found["score"].min(), found["score"].max(), 61)
    for kind, shape in zip((~found["genuine"], found["genuine"]), drawn, strict=True):
        mine = found[kind]
        density, _ = np.histogram(mine["score"], bins, weights=mine["weight"], density=True)
        assert shape.get_paths()[0].vertices[:, 1].max() == pytest.approx(density.max(), rel=1e-4)  # edges in float32


def test_too_many_galleries_leave_the_pairs_and_scores_of_the_draws(manifest, monkeypatch):
    whole = evaluate(knowing(manifest, 2), manifest)
    monkeypatch.setattr(expectation, "MOST", 1.0)
    found = list_pairs(knowing(manifest, 1), manifest)
    ends = {frozenset(pair) for pair in zip(found["query"], found["gallery"], strict=True)}
    expected = set()
    for index in range(manifest.draws):
        query, gallery = manifest.draw(index)
        expected |= {frozenset((q, g)) for q in query["path"] for g in gallery["path"]}
    assert len(ends) == len(found) and ends == expected
    met = [manifest.draw(index) for index in range(manifest.draws)]
    assert found["weight"].sum() == pytest.approx(np.mean([len(query) * len(gallery) for query, gallery in met]))
    assert len(ends) < len(list(combinations(manifest.test["path"], 2)))
    drawn = evaluate(knowing(manifest, 2), manifest)
    assert drawn.over == "3 draws" and drawn.summary()["rank1"] == pytest.approx(whole.summary()["rank1_draws"])
    assert drawn.summary()["rank1_draws"] == whole.summary()["rank1_draws"] != whole.summary()["rank1"]


@pytest.mark.parametrize("draws", [1, 3])
def test_across_sessions_a_person_is_compared_with_other_sessions_alone(table, draws):
    nth = table.groupby(["identity", "aspect"]).cumcount()
    # of five images: two and three, one and four, or all in one session (who cannot be searched for)
    begun = table.assign(session=(nth >= 2 - table["identity"] % 3).where(table["identity"] % 3 < 2, 0).astype("Int64"))
    begun.attrs["dataset"] = "demo"  # whose people have no threshold
    manifest = protocols.build(begun, "cross_session", "dorsal_r", validation="none", draws=draws)
    assert {"test", "distractor"} <= set(manifest.images["role"])
    found = list_pairs(knowing(manifest, 1), manifest)
    ends = {frozenset(pair) for pair in zip(found["query"], found["gallery"], strict=True)}
    about = manifest.images.set_index("path")
    asked, shelved = manifest.test["path"], manifest.in_tests["path"]
    size = about.groupby(["role", "identity"])["aspect"].transform("size")
    # of a person's images, the share by another session: in that share of galleries one of them is the person's
    asks = 1 - about.groupby(["role", "identity", "session"])["aspect"].transform("size") / size
    expected = {}
    for one, other in product(asked, shelved):
        mine, theirs = about.loc[one], about.loc[other]
        pair = frozenset((one, other))
        if mine["identity"] != theirs["identity"]:
            expected[pair] = asks[one] / size[other] + (asks[other] / size[one] if theirs["role"] == "test" else 0)
        elif mine["session"] != theirs["session"]:
            expected[pair] = 2 / size[one]
    assert len(ends) == len(found) and ends == set(expected)
    weights = [expected[frozenset(pair)] for pair in zip(found["query"], found["gallery"], strict=True)]
    assert found["weight"].tolist() == pytest.approx(weights)
    # what one gallery brings together, on average: every query that asks with everybody in the gallery
    people = about[about["role"].isin(["test", "distractor"])].groupby("role")["identity"].nunique().sum()
    assert found["weight"].sum() == pytest.approx(asks[asked].sum() * people)


def test_open_set_leaves_every_person_out_once_per_draw(manifest):
    searched = open_set.search(knowing(manifest, 0.5), manifest)
    queries = sum(len(manifest.draw(index)[0]) for index in range(manifest.draws))
    assert len(searched.mated) == len(searched.non_mated) == queries
    assert (searched.non_mated["score"] < 1).all()  # nobody finds themselves
    perfect = open_set.search(knowing(manifest, 0), manifest)
    assert (perfect.mated["score"] > 0.999).all() and perfect.find_fnir(0.5)[0] == 0


def test_subgroups_count_people_and_keep_silent_below_ten(manifest):
    scores = evaluate(knowing(manifest, 1.5), manifest)
    compared = list_pairs(knowing(manifest, 1.5), manifest)
    found = subgroups.score_groups(scores, compared, manifest, verify(compared).thresholds_at)
    test = manifest.test
    for gender in test["gender"].unique():
        row = found.loc[("gender", gender)]
        people = test.loc[test["gender"] == gender, "identity"].nunique()
        assert row["identities"] == people
        assert np.isnan(row["rank1"]) == (people < 10)
        if people >= 10:
            inside = test.loc[test["gender"] == gender, "path"]
            mine = scores.per_query[scores.per_query["path"].isin(inside)]
            assert row["rank1"] == pytest.approx(np.average(mine["rank1"], weights=mine["weight"]))
            pairs = compared[compared["query"].isin(inside) & compared["gallery"].isin(inside)]
            wrong = ~pairs["genuine"]
            for place, threshold in verify(compared).thresholds_at.items():
                accepted, often = pairs["score"] >= threshold, pairs["weight"]
                assert row[f"fpr_at_{place}"] == pytest.approx(often[wrong & accepted].sum() / often[wrong].sum())
                assert row[f"fnr_at_{place}"] == pytest.approx(often[~wrong & ~accepted].sum() / often[~wrong].sum())
            # without its distance to 100 genuine pairs, a group's own EER would stand there
            assert np.isnan(row["eer"]) == ((~wrong).sum() < 100)
            for score in ("rank1", "map", "fpr_at_fpr_0.01", "fnr_at_fpr_0.01", "fpr_at_eer", "fnr_at_eer"):
                assert row[f"{score}_low"] <= row[score] <= row[f"{score}_high"]
    shown = subgroups.format_groups(found)
    assert (shown.loc[found["rank1"].isna(), "rank-1"] == "").all()
    places = ("threshold at 1 %", "threshold of the EER")
    rates = [f"{rate}, {place}" for place in places for rate in ("FPR", "FNR")]
    assert shown.columns.tolist() == ["identities", "query images", "rank-1", "mAP", "EER", *rates]
    assert found.loc["images of the person"].index.tolist() == ["up to 5"] and "skin colour" in found.index
    bare = manifest.images.drop(columns=["gender", "age", "skin_color", "nail_polish", "irregularities"])
    assert len(subgroups.score_groups(scores, compared, type(manifest)(bare), {})) == 1
    hardest = subgroups.find_hardest(scores.per_query)
    lowest = scores.per_query.groupby("identity")["map"].mean().sort_values().head(10)
    assert hardest["mAP"].tolist() == pytest.approx((100 * lowest).round(1).tolist())
    assert (hardest["queries"] == 5).all()


def test_paired_comparison_of_embeddings(manifest):
    good, poor = (evaluate(knowing(manifest, noise), manifest) for noise in (0.8, 2.5))
    told = comparison.compare(good.per_query, {"poor": poor.per_query, "itself": good.per_query})
    assert told.loc["over poor", "rank-1"].startswith("+") and float(told.loc["over poor", "p (mAP)"]) < 0.01
    assert told.loc["over itself", "mAP"] == "+0.0 [+0.0, +0.0]" and told.loc["over itself", "p (mAP)"] == "1.0000"
    with pytest.raises(UserError, match="other: was tested on other queries"):
        comparison.compare(good.per_query, {"other": poor.per_query.iloc[:-1]})


def test_a_mean_over_draws_is_compared_with_one_over_the_same_draws(manifest):
    own, poor = (evaluate(knowing(manifest, noise), manifest) for noise in (1.5, 3))
    ranked = evaluate(knowing(manifest, 1.5), manifest, how="re-ranked")
    scores = {"image": own, "image, re-ranked": ranked, "stage 0": poor}
    told = comparison.compare_rows(scores, {"frozen, seed 0": poor.per_query})
    assert told.index.tolist() == ["over stage 0", "over frozen, seed 0", "over image, re-ranked (3 draws)"]
    exactly = 100 * (own.summary()["rank1"] - poor.summary()["rank1"])
    assert told["rank-1"].str.split().str[0].tolist()[:2] == [f"{exactly:+.1f}"] * 2
    # every draw asks alike often, so that the mean over draws is the mean over queries
    drawn = 100 * (own.summary()["map_draws"] - ranked.summary()["map_draws"])
    assert told["mAP"].str.split().iloc[2][0] == f"{drawn:+.1f}"
    assert own.summary()["map"] != pytest.approx(own.summary()["map_draws"], abs=1e-3)


def test_a_gallery_of_one_person_is_refused(manifest):
    one = manifest.images.copy()
    keep = one.loc[one["role"] == "test", "identity"].iloc[0]
    alone = type(manifest)(one[(one["identity"] == keep)])
    with pytest.raises(UserError, match="draw 0: its gallery shows one person alone"):
        evaluate(knowing(alone, 1), alone)


def test_eligible_protocols_test_nobody_who_was_trained_on(open_run):
    run = open_run(variant="classifier", protocol="own", demo_people=12)
    fit, unfit = choose_protocols(run)
    assert list(fit)[0] == "own" and {"mba", "cross_session"} <= set(fit) and "given" in unfit
    trained = set(run.manifest.train["subject"])
    assert all(not trained & set(each.test["subject"]) for each in fit.values())
    for name in fit:  # what a protocol of its own would have drawn
        alone = protocols.build(run.table, name, "dorsal_r", seed=0, validation="none", draws=2)
        assert name == "own" or alone.sha == fit[name].sha
    counts = assessment.count_test(fit["mba"])
    assert counts["queries"] == len(fit["mba"].draw(0)[0]) and 0 < counts["distractors"] < counts["gallery"]


def choose_protocols(run):
    return assessment.choose_protocols(run.table, run.manifest, run.params, run.seen_people)


def test_people_trained_on_keep_a_protocol_out(open_run, monkeypatch):
    run = open_run(variant="classifier", protocol="own", demo_people=12)
    monkeypatch.setattr(type(run), "seen_people", property(lambda _: set(run.table["identity"])))
    _, unfit = choose_protocols(run)
    assert "of its test people were used in training" in unfit["mba"]
    one = set(assessment.protocols.build(run.table, "mba", "dorsal_r").test["subject"].iloc[:1])
    monkeypatch.setattr(type(run), "seen_people", property(lambda _: one))
    assert choose_protocols(run)[1]["mba"] == "1 of its test people was used in training"
    monkeypatch.undo()
    assert open_run(variant="frozen").seen_people == set()  # who trains nothing has seen nobody
    assert open_run(variant="tip_adapter").seen_people == set(open_run().manifest.train["subject"])


def test_one_persons_other_hand_is_no_impostor_and_leaves_with_them(open_run):
    run = open_run(variant="frozen", protocol="mba", demo_people=12)
    embeddings = knowing(run.manifest, 0.1)
    table = list_pairs(embeddings, run.manifest)
    person = run.manifest.images.set_index("path")["subject"]
    same = person.loc[table["query"]].to_numpy() == person.loc[table["gallery"]].to_numpy()
    assert (same == table["genuine"]).all() and (~table["genuine"]).any()
    # embeddings that know the person, whichever hand: nobody who is not enrolled is found
    by_person = run.manifest.images["subject"].to_numpy()
    centres = {s: np.random.default_rng(s).normal(size=64) for s in by_person}
    knows = Embeddings(run.manifest.images["path"].tolist(), torch.tensor(np.stack([centres[s] for s in by_person])))
    assert open_set.search(knows, run.manifest).non_mated["score"].max() < 0.9


def test_across_aspects(open_run, tmp_path):
    runs = [open_run(fresh=tmp_path, variant="frozen", protocol="common", aspect=a) for a in ("dorsal_r", "palmar_r")]
    for run in runs:
        (run.folder / "metrics.json").write_text("{}")
    said = across.report([], [], tmp_path)
    table = pd.read_csv(tmp_path / "across.csv", keep_default_na=False)
    assert len(table) == 4 and (table["left_out"] == "").all()
    assert (tmp_path / "across_rank1.png").stat().st_size > 0 and "demo palmar_r, frozen" in said
    square = across.arrange(table)
    assert square.shape == (2, 2) and square.notna().all(axis=None)
    mine = table[(table["aspect"] == "dorsal_r") & (table["tested_aspect"] == "dorsal_r")].iloc[0]
    assert square.loc["demo dorsal_r, frozen", "demo dorsal_r"] == pytest.approx(100 * float(mine["rank1"]))


def test_across_refuses_leaks_and_mistakes(open_run, tmp_path, monkeypatch):
    run = open_run(fresh=tmp_path, variant="frozen", protocol="common")
    monkeypatch.setattr(type(run), "seen_people", property(lambda _: set(run.manifest.test["subject"])))
    assert "people tested were trained on; train under common" in across.report([str(run.folder)], [], tmp_path)
    with pytest.raises(UserError, match="holds no params.yaml"):
        across.open_runs([str(tmp_path)], tmp_path)
    with pytest.raises(UserError, match="no evaluated run of protocol common"):
        across.open_runs([], tmp_path / "empty")
    with pytest.raises(UserError, match="--on hd: write NAME=FOLDER"):
        across.list_targets([run], ["hd"])


def test_across_knows_people_of_folders_by_name(open_run):
    class Folder:
        params, data_root = open_run(dataset="demo").params.model_copy(update={"dataset": "folder"}), "one"
        table = pd.DataFrame({"identity": [0, 1], "name": ["ann", "ben"]})
        seen_people = {0, 1}

    other = pd.DataFrame({"identity": [0, 1, 2], "name": ["aaa", "ann", "zoe"]})

    class Tested:
        test = pd.DataFrame({"subject": [1, 2]})

    assert across._find_leaked(Folder, across.Target("folder", "two", other, Tested, "hand")) == {"ann"}
    assert across._find_leaked(Folder, across.Target("11k", "two", other, Tested, "hand")) == set()


def test_only_seeds_are_averaged_in_the_matrix():
    row = {"dataset": "demo", "aspect": "a", "variant": "clipid", "model": "m", "experiment": "x", "left_out": ""}
    row |= {"tested_dataset": "demo", "tested_aspect": "b", "prompt_form": "learned", "train": "all"}
    rows = [("2a", 0, 0.4), ("2b", 0, 0.8), ("2b", 1, 0.9)]
    square = across.arrange(pd.DataFrame([row | {"stage": t, "seed": s, "rank1": r} for t, s, r in rows]))
    assert square["demo b"].tolist() == pytest.approx([40, 85])
    forms = [
        row | {"stage": "2b", "seed": 0, "prompt_form": f, "rank1": r} for f, r in (("learned", 0.4), ("fixed", 0.8))
    ]
    assert across.arrange(pd.DataFrame(forms))["demo b"].to_dict() == pytest.approx(
        {"demo a, clipid, learned": 40, "demo a, clipid, fixed": 80}
    )
    few = [row | {"stage": "2b", "seed": 0, "train": how, "rank1": r} for how, r in (("all", 0.9), ("norms", 0.1))]
    assert across.arrange(pd.DataFrame(few))["demo b"].tolist() == pytest.approx([90, 10])


def test_damaged_and_older_results_of_other_runs_are_passed_over(tmp_path):
    for number, text in enumerate(("", "[1]", "{}", '{"rank1": 1}')):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "metrics.json").write_text(text)
        assert finished_run.read_metrics(tmp_path / str(number)) is None
    assert finished_run.find_runs(sorted(tmp_path.glob("*"))) == []
    assert comparison.find_comparable(tmp_path / "0", "sha") == {}


def test_one_draw_has_no_spread(manifest):
    one = evaluate(knowing(manifest, 1), type(manifest)(manifest.images.drop(columns=["draw_1", "draw_2"])))
    assert one.summary()["rank1_draws_std"] is None
    shown = assessment.tabulate_own(one)
    assert "±" not in shown.to_string() and shown.index[-1] == "as papers print, 1 draw"
    assert "±" in assessment.tabulate_own(evaluate(knowing(manifest, 1), manifest)).iloc[-1]["rank-1"]


def test_one_vote_per_query_and_one_per_person(table):
    few = table[
        ~table["path"].isin(table.groupby(["identity", "aspect"]).nth([3, 4])["path"]) | (table["identity"] % 3 > 0)
    ]
    few.attrs |= table.attrs
    manifest = protocols.build(few, "common", "dorsal_r", validation="none", draws=2)
    scores = evaluate(knowing(manifest, 2), manifest)
    numbers, asked = scores.summary(), scores.per_query
    sizes = asked.groupby("identity").size()
    assert sorted(set(sizes)) == [3, 5]
    each = asked.groupby("identity")["map"].mean()
    assert numbers["map_per_person"] == pytest.approx(each.mean())
    assert numbers["map"] == pytest.approx(np.average(each, weights=sizes - 1))  # an image of n asks in n - 1 of n
    assert numbers["map"] != pytest.approx(numbers["map_per_person"], abs=1e-4)
    shown = assessment.tabulate_own(scores)
    assert shown.index.tolist() == [
        *("all galleries, one vote per query", "all galleries, one vote per person", "as papers print, 2 draws")
    ]
    for place, end in enumerate(("", "_per_person", "_draws")):
        assert shown["mAP"].iloc[place].startswith(f"{100 * numbers[f'map{end}']:.1f} ")
    rows = assessment.tabulate_rows({"image": scores})
    assert rows.loc["image", "mAP per person"] == f"{100 * numbers['map_per_person']:.1f}"


def test_mirrored_features_are_one_more_row_and_a_warning(open_run, capsys):
    plain, flipped = (open_run(variant="frozen", flip_test=flip) for flip in (False, True))
    assert plain.folder == flipped.folder  # a switch of the evaluation, not another run
    made = embeddings.embed(flipped, loading.load_trained_encoder(flipped), flipped.manifest.test)
    assert list(made) == ["image", "mirrored"] and not torch.equal(made["image"].values, made["mirrored"].values)
    assert "looks like a left hand" in capsys.readouterr().out


@pytest.mark.heavy
def test_two_runs_that_finish_at_once_both_stand_in_the_leaderboard(tmp_path):
    code = """
import sys, pathlib, time
from clipreid_lib.scores import leaderboard
from clipreid_lib.base.files import write_json
outputs, name = pathlib.Path(sys.argv[1]), sys.argv[2]
for number in range(15):
    scores = {"protocols": {"own": {"protocol": "own", "rank1": 0.5}}, "compared_sha": "x", "run": f"{name}{number}"}
    write_json(outputs / "runs" / f"{name}{number}" / "metrics.json", scores)
    leaderboard.refresh_leaderboard(outputs)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    board = pd.read_csv(tmp_path / "leaderboard.csv")
    assert set(board["run"]) == {f"{name}{number}" for name in "ab" for number in range(15)}


def test_the_leaderboard_has_a_row_per_protocol():
    mine = {p: {"protocol": p, "over": "all galleries", "rank1": s, "rank1_draws": s + 0.01} for p, s in SCORED}
    metrics = {"experiment": "x", "rank1": 0.1, "protocols": mine}
    board = leaderboard.list_rows(metrics, metrics)
    assert board["protocol"].tolist() == ["own", "mba"] * 2 and board["rank1"].tolist() == [0.5, 0.4] * 2
    assert board["rank1_draws"].tolist() == pytest.approx([0.51, 0.41] * 2)
    assert list(board) == leaderboard.COLUMNS and set(score_names.DEFINITIONS) >= {"map", "map_trapezoid", "eer"}


def test_older_means_of_draws_stand_in_the_columns_of_draws_alone(tmp_path):
    older = {"protocol": "own", "queries": 9, "eer": 0.2, "eer_low": 0.1, "eer_high": 0.3, "manifest_sha": "m"}
    for place, score in enumerate(score_names.SCORES):
        older |= {score: 0.5 + place / 100, f"{score}_std": 0.01, f"{score}_low": 0.4, f"{score}_high": 0.6}
    newer = {"protocol": "own", "over": "all galleries"} | {score: 0.9 for score in score_names.SCORES}
    for name, scores in (("a", older), ("b", newer)):
        metrics = {"run": name, "compared_sha": "x"} | scores | {"protocols": {"own": scores}}
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "metrics.json").write_text(json.dumps(metrics))
    leaderboard.refresh_leaderboard(tmp_path)
    old, new = pd.read_csv(tmp_path / "leaderboard.csv").set_index("run").loc[["a", "b"]].to_dict("records")
    for place, score in enumerate(score_names.SCORES):
        assert (old[f"{score}_draws"], old[f"{score}_draws_std"]) == pytest.approx((0.5 + place / 100, 0.01))
        assert np.isnan(old[score]) and new[score] == 0.9 and np.isnan(new[f"{score}_draws"])
    assert all(np.isnan(old[f"{score}{end}"]) for score in ("rank1", "map") for end in ("_low", "_high", "_per_person"))
    assert np.isnan([old["eer"], old["eer_low"], old["eer_high"]]).all()  # of pairs that weighed otherwise
    assert np.isnan(old["over"]) and new["over"] == "all galleries" and old["queries"] == 9


SCORED = (("own", 0.5), ("mba", 0.4))
