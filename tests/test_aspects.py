"""One run of several aspects: who trains and is tested, what the sentences say, and how aspects ask one another."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import finetune, learn
from test_expectation import ASPECTS, embed, list_galleries, people

from clipreid_lib.base.errors import TooFewPeople, UserError
from clipreid_lib.clip import backbone
from clipreid_lib.data import protocols
from clipreid_lib.method.loss_terms import AnchorLoss
from clipreid_lib.method.prompt_bank import PromptBank, describe_aspect, describe_people
from clipreid_lib.pages import neighbours
from clipreid_lib.params.check import validate_params
from clipreid_lib.runs import across, loading, results, training
from clipreid_lib.scores import assessment, crossing, expectation, leaderboard
from clipreid_lib.scores.metrics import score_retrieval
from clipreid_lib.scores.score_names import SCORES

BOTH = "+".join(ASPECTS)


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


def test_all_aspects_train_and_a_person_has_one_gallery_image_of_any_of_them():
    table = people(12, (2, 4))
    joined, single = (protocols.build(table, "common", aspect, draws=8) for aspect in (BOTH, "dorsal_r"))
    assert set(joined.train["aspect"]) == set(ASPECTS) == set(joined.test["aspect"])
    assert set(joined.train["identity"]) == set(single.train["identity"])
    galleries = [joined.draw(index)[1] for index in range(8)]
    assert all(not gallery["identity"].duplicated().any() for gallery in galleries)
    assert set(pd.concat(galleries)["aspect"]) == set(ASPECTS)
    query, gallery = joined.draw(0)
    assert sorted([*query["path"], *gallery["path"]]) == sorted(joined.test["path"])


def test_an_aspect_whose_name_holds_a_plus_is_one():
    table = people(12, (2, 3)).replace({"aspect": {"dorsal_r": "left+right"}})
    assert set(protocols.build(table, "own", "left+right", draws=1).train["aspect"]) == {"left+right"}


def test_joined_aspects_are_refused_where_they_cannot_be():
    with pytest.raises(UserError, match="aspect: dorsal_l.dorsal_r: several aspects in one run need protocol common"):
        protocols.build(people(12, (2, 3)), "own", BOTH)
    with pytest.raises(UserError, match="holds no image of 'fist'; it has dorsal_l, dorsal_r"):
        protocols.build(people(12, (2, 3)), "common", "dorsal_r+fist")
    with pytest.raises(UserError, match="aspect: dorsal_r.palmar_r: several aspects in one run need protocol common"):
        validate_params({"aspect": "dorsal_r+palmar_r"})
    with pytest.raises(UserError, match="aspect: demo has no 'fist'; allowed: dorsal_r, .*, or several joined by"):
        validate_params({"aspect": "dorsal_r+fist", "protocol": "common"})
    with pytest.raises(UserError, match="aspect: dorsal_r.dorsal_r: joins one aspect twice"):
        validate_params({"aspect": "dorsal_r+dorsal_r", "protocol": "common"})
    either_way = [
        validate_params({"aspect": text, "protocol": "common"}) for text in ("palmar_r+dorsal_l", "dorsal_l+palmar_r")
    ]
    assert either_way[0].run_id == either_way[1].run_id
    with pytest.raises(UserError, match="noun: learned sentences of several aspects say which aspect"):
        validate_params({"aspect": "dorsal_r+palmar_r", "protocol": "common", "noun": "fist."})


@pytest.mark.parametrize("steps", [None, 1.0])
def test_across_aspects_every_gallery_gone_through_gives_the_same_scores(steps):
    table = people(12, (1, 3))
    manifest = protocols.build_crossing(table, "dorsal_l", "dorsal_r", draws=3)
    embeddings, sums = embed(table, 1.5, steps=steps), {}
    query = manifest.test[manifest.test["aspect"] == "dorsal_l"]
    shown = manifest.test[manifest.test["aspect"] == "dorsal_r"]
    assert query["identity"].nunique() == shown["identity"].nunique() > 3 and set(query["identity"]) == set(
        shown["identity"]
    )
    whole = SimpleNamespace(pool=lambda part: (shown, shown.iloc[:0]), protocol="common")
    galleries = [gallery for _, gallery in list_galleries(whole, "test")]
    for gallery in galleries:
        scores = score_retrieval(embeddings.of(query), query["identity"], embeddings.of(gallery), gallery["identity"])
        each = [*((scores.first_hit <= k) for k in (1, 5, 10))]
        each += [scores.average_precision, scores.average_precision_trapezoid, scores.inverse_penalty]
        for path, row in zip(query["path"], np.column_stack(each), strict=True):
            sums[path] = sums.get(path, 0) + row / len(galleries)
    found = expectation.expect(embeddings, manifest).per_query.set_index("path")
    assert set(found.index) == set(query["path"]) and (found["weight"] == 1).all()
    for path, row in found.iterrows():
        assert row[list(SCORES)].to_numpy(float) == pytest.approx(sums[path], abs=1e-12)


def test_galleries_across_aspects_are_those_of_the_aspect_alone():
    table = people(14, (2, 4))
    crossing_test = protocols.build_crossing(table, "dorsal_l", "dorsal_r", seed=3, draws=4)
    alone = protocols.build(table, "common", "dorsal_r", seed=3, draws=4)
    for index in range(4):
        assert set(crossing_test.draw(index)[1]["path"]) <= set(alone.draw(index)[1]["path"])
        assert set(crossing_test.draw(index)[0]["aspect"]) == {"dorsal_l"}
    apart = table[(table["aspect"] == "dorsal_l") | (table["identity"] < 7)]  # whoever is tested has one aspect
    apart.attrs["dataset"] = "hd"
    with pytest.raises(TooFewPeople, match="too few people tested in dorsal_l and dorsal_r"):
        protocols.build_crossing(apart, "dorsal_l", "dorsal_r")


def test_a_person_has_a_sentence_for_each_aspect_with_the_same_tokens(clip):
    torch.manual_seed(0)
    aspects = ["fist", "palmar_l", "thumb_nail"]  # the tokens stand at different places
    bank = PromptBank(clip, [5, 9], num_prompts=2, aspects=aspects)
    assert [describe_aspect(each) for each in aspects] == ["the fist", "the palm of the left hand", "the thumb nail"]
    assert bank.texts[1] == "a photo of the palm of the left hand of x x."
    assert bank.readable_texts[1] == "a photo of the palm of the left hand of [X]1 [X]2."
    assert bank.names == [f"{person} {aspect}" for person in (5, 9) for aspect in aspects]
    assert bank.codes.shape[0] == 2 and bank.kinds == 2 and len(set(bank.sentences.places[:, 0].tolist())) > 1
    word, other = (clip.embed_tokens(torch.tensor(clip.tokenizer.encode(each))) for each in ("hand", "photo"))
    with torch.no_grad():
        bank.codes[0], bank.codes[1] = word, other  # one token each
    with pytest.raises(UserError, match="sentence 'a photo of the x ray of ....': x stands for a learnable token"):
        PromptBank(clip, [5, 9], num_prompts=2, aspects=["fist", "x_ray"])
    said = [text.replace("x x", f"{each} {each}") for each in ("hand", "photo") for text in bank.texts]
    torch.testing.assert_close(bank.anchors(clip), clip.encode_texts(said), atol=1e-5, rtol=1e-5)


def test_words_of_several_aspects_say_the_aspect_and_the_person():
    table = pd.DataFrame(
        {"identity": [1, 1, 2], "aspect": ["palmar_l", "dorsal_r", "dorsal_r"], "gender": ["male"] * 3}
    )
    said = describe_people(table, [1, 2], "mine", aspects=["dorsal_r", "palmar_l"])
    assert said == 2 * ["male dorsal right hand.", "male palmar left hand."]


def test_an_identity_has_the_sum_of_its_anchors_probabilities():
    torch.manual_seed(0)
    anchors, image, rows = torch.randn(3, 2, 4), torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    out = SimpleNamespace(features=SimpleNamespace(in_text_space=image))
    chances = (image @ anchors.flatten(0, 1).T).softmax(dim=1).reshape(5, 3, 2).sum(dim=2)
    expected = -chances[range(5), rows].log().mean()
    torch.testing.assert_close(AnchorLoss(anchors, 1.0, "dot", smoothing=0.0)(out, rows), expected)
    torch.testing.assert_close(
        AnchorLoss(anchors[:, :1], 1.0, "dot")(out, rows), AnchorLoss(anchors[:, 0], 1.0, "dot")(out, rows)
    )


def test_runs_that_were_trained_otherwise_are_not_compared():
    people = np.arange(12)
    asked = pd.DataFrame({"path": [f"{each}.jpg" for each in people], "identity": people, "weight": 1.0})

    def answer(share):
        return asked.assign(**dict.fromkeys(SCORES, 0.0)).assign(rank1=share + people % 2 / 100, map=share)

    usual, hands = {"protocol": "common", "variant": "clipid"}, pd.DataFrame({"aspect": ["dorsal_r", "palmar_r"]})

    def make(aspect, seed=0, **more):
        params = validate_params(usual | {"aspect": aspect, "seed": seed} | more).resolved()
        return SimpleNamespace(params=params, table=hands)

    # Each run's answers on backs and on palms asking backs; None where people would leak.
    given = [
        (make("dorsal_r+palmar_r", 0), (0.8, 0.5)),
        (make("dorsal_r+palmar_r", 1), (0.9, 0.7)),
        (make("dorsal_r", 0), (0.6, 0.1)),
        (make("dorsal_r", 1), (0.7, None)),
        (make("dorsal_r", 0, encoder_epochs=1), (0.0, 0.0)),
        (make("palmar_r", 0), (0.0, 0.3)),
        (make("dorsal_r+palmar_r", 0, variant="clipid_no_text"), (0.75, 0.5)),
    ]

    def compare(rows):
        tests = {"tested_dataset": "demo", "tested_aspect": ["dorsal_r", "palmar_r asks dorsal_r"] * len(rows)}
        answers = [None if share is None else answer(share) for _, shares in rows for share in shares]
        return across.compare_joined([run for run, _ in rows], pd.DataFrame(tests), answers)

    for rows in (given, given[::-1]):
        found, told = compare(rows)
        backs, crossed = (table["rank-1"].str.split(" ").str[0].to_dict() for table in found.values())
        assert not told and list(found) == ["demo dorsal_r", "demo palmar_r asks dorsal_r"]
        joined = "clipid of dorsal_r+palmar_r over"
        assert backs == {
            f"{joined} clipid of dorsal_r": "+20.0",
            f"{joined} clipid_no_text of dorsal_r+palmar_r": "+5.0",
        }
        assert crossed == {
            f"{joined} clipid of dorsal_r": "+40.0",
            f"{joined} clipid of palmar_r": "+20.0",
            f"{joined} clipid_no_text of dorsal_r+palmar_r": "+0.0",
        }
        assert found["demo dorsal_r"]["seeds"].to_dict()[f"{joined} clipid of dorsal_r"] == "2"
    found, told = compare([*given, given[0]])
    assert found == {} and told == [
        "not compared: several runs of clipid on dorsal_r+palmar_r, one seed and the same params"
    ]
    assert compare([given[2], given[2]]) == ({}, [])  # nothing joined, so nothing to compare


def test_people_with_one_image_of_each_aspect_are_tested_across_alone(tmp_path):
    table = people(12, (1, 1))
    params = validate_params({"dataset": "folder", "aspect": BOTH, "protocol": "common", "draws": 2})
    rows = crossing.cross(embed(table, 0.5), table, params)
    assert [row["identities"] for row in rows] == [6, 6] and all(0 <= row["rank1"] <= 1 for row in rows)
    run = SimpleNamespace(table=table, params=params, folder=tmp_path)
    kept = results.cross_aspects(run, {"protocols": {"common": {}}}, {"image": embed(table, 0.5)})
    assert kept == rows
    few = people(12, (2, 2))[lambda table: (table["aspect"] == "dorsal_l") | (table["identity"] < 7)]
    few.attrs["dataset"] = "hd"
    rows = crossing.cross(embed(few, 0.5), few, params)
    assert (
        all("too few people" in row["rank1"] for row in rows) and "too few people" in crossing.tabulate(rows).iloc[0, 0]
    )


def score_as_notebook_04(run):
    """Test a trained run as notebook 04 does, and across its aspects; return the metrics and the crossing's rows."""
    tests, left_out = assessment.choose_protocols(run.table, run.manifest, run.params, run.seen_people)
    encoder = loading.load_trained_encoder(run)
    images = pd.concat([manifest.in_tests for manifest in tests.values()]).drop_duplicates("path")
    made = {"image": encoder.embed(images)}
    found = {name: assessment.assess(made, manifest, run.params) for name, manifest in tests.items()}
    metrics = results.write_metrics(run, found, encoder, {}, left_out)
    return metrics, results.cross_aspects(run, metrics, made)


@pytest.mark.heavy
@pytest.mark.training
def test_a_run_of_two_aspects_from_its_prompts_to_across(open_run, tmp_path):
    joined = open_run(fresh=tmp_path, aspect="dorsal_r+palmar_r", protocol="common", variant="clipid")
    single = open_run(fresh=tmp_path, aspect="palmar_r", protocol="common", variant="clipid")
    for run in (joined, single):
        clip, bank, log = learn(run)
        torch.testing.assert_close(training.load_prompts(run, clip).anchors(clip), bank.anchors(clip))
        finetune(run)
        assert bank.aspects == (["dorsal_r", "palmar_r"] if run is joined else [])
        assert log["text_accuracy"].between(0, 1).all()
        ranking = neighbours.rank_for_anchors(run.manifest.train, loading.load_pretrained_encoder(run), bank)
        shown = {ranking.gallery["aspect"][each.position] for each in ranking.row(0, 99)[0]}
        assert shown == {ranking.query["aspect"][0]}
    (metrics, rows), (alone, nothing) = score_as_notebook_04(joined), score_as_notebook_04(single)
    assert list(metrics["protocols"]) == ["common", "common, dorsal_r", "common, palmar_r"] and not metrics["left_out"]
    assert metrics["protocols"]["common, palmar_r"]["compared_sha"] == alone["compared_sha"]
    assert [row["asks"][0] + row["shown"][0] for row in rows] == ["dd", "dp", "pd", "pp"]
    assert rows[3]["rank1"] == metrics["protocols"]["common, palmar_r"]["rank1"]
    assert crossing.tabulate(rows).shape == (4, 2)
    assert nothing == [] and crossing.tabulate(nothing).to_numpy().tolist() == [["the run has one aspect"]]
    board = leaderboard.refresh_leaderboard(tmp_path)
    mine = board[board["run"] == joined.params.run_id]
    assert mine["aspect"].tolist() == ["dorsal_r+palmar_r", "dorsal_r", "palmar_r"]
    said = across.report([str(joined.folder), str(single.folder)], [], tmp_path)
    assert "clipid of dorsal_r+palmar_r over clipid of palmar_r" in said and "dorsal_r asks palmar_r" in said
    table = pd.read_csv(tmp_path / "across.csv", keep_default_na=False)
    assert len(table) == 2 * 4 and (table["left_out"] == "").all()
    there = table[table["aspect"] == "dorsal_r+palmar_r"].set_index("tested_aspect")["rank1"].astype(float)
    assert there["dorsal_r asks palmar_r"] == pytest.approx(rows[1]["rank1"])
