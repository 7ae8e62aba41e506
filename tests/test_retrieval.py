import numpy as np
import pandas as pd
import pytest

from clipreid_lib import choices, encoder_finetune, gallery, retrieval, stages
from clipreid_lib.errors import UserError
from clipreid_lib.files import write_json
from clipreid_lib.ranking import Ranking


@pytest.fixture
def two():
    """Four queries before and after: a rises, b stays, c falls, d is always wrong."""
    query = pd.DataFrame({"path": [f"x/{n}.jpg" for n in "abcd"], "identity": [1, 2, 3, 4], "aspect": "hand"})
    query["gender"] = ["female", "male", "female", None]
    shelf = query.assign(path=[f"g/{n}.jpg" for n in "abcd"])
    good = np.eye(4)
    before, after = good.copy(), good.copy()
    before[0, 0] = after[2, 2] = before[3, 3] = after[3, 3] = -0.5
    return Ranking(query, shelf, before), Ranking(query, shelf, after)


def test_queries_by_name(two):
    assert choices.named(two[0], "x/b.jpg").tolist() == choices.named(two[0], "b.jpg").tolist() == [1]
    with pytest.raises(UserError, match=r"query: none of 4 is called 'b.jpeg'; nearest: .*b\.jpg"):
        choices.named(two[0], "b.jpeg")


def test_queries_by_outcome(two):
    before, after = two
    assert set(choices.wrong(before, 9)) == {0, 3} and set(choices.wrong(after, 9)) == {2, 3}
    assert choices.largest_change(before, after, 5).tolist() == [0]
    assert choices.largest_change(before, after, 5, falling=True).tolist() == [2]
    assert choices.wrong(Ranking(before.query, before.gallery, np.eye(4)), 3).tolist() == []
    assert sorted(choices.at_random(before, 9)) == [0, 1, 2, 3]
    assert choices.at_random(before, 2, seed=1).tolist() == choices.at_random(before, 2, seed=1).tolist()
    other = Ranking(before.query.iloc[::-1], before.gallery, np.eye(4)[::-1])
    with pytest.raises(UserError, match="they answer other queries"):
        choices.largest_change(before, other, 1)


def test_queries_by_group(two):
    assert choices.of_group(two[1], "gender", "female").tolist() == [2, 0]  # the worst first
    with pytest.raises(UserError, match="group: the queries have no column 'hair'; they have path, identity"):
        choices.of_group(two[0], "hair", "red")
    with pytest.raises(UserError, match="no query has gender 'x'; there are female, male"):
        choices.of_group(two[0], "gender", "x")


def test_before_and_after_draws_one_row_per_stage(two, tmp_path):
    named = dict(zip(("stage 0", "stage 2"), two, strict=True))
    one = gallery.sheet(two[0], tmp_path, [0], top=3, title="stage 0")
    both = gallery.before_and_after(named, tmp_path, 0, top=3)
    assert both.height == sum(gallery.sheet(each, tmp_path, [0], top=3, title="x").height for each in two)
    assert both.width >= one.width
    moved = retrieval.moved_most(named, tmp_path, top=3)
    assert moved.height > 1.5 * both.height  # the one that rose and the one that fell
    assert retrieval.moved_most({"alone": two[0]}, tmp_path, top=3).height < both.height
    other = Ranking(two[0].query.iloc[::-1], two[0].gallery, np.eye(4)[::-1])
    with pytest.raises(ValueError, match="same queries"):
        gallery.before_and_after({"a": two[0], "b": other}, tmp_path, 0)


def test_every_stage_at_hand_ranks_the_same_draw(open_run, tmp_path):
    first, second = (open_run(fresh=tmp_path, variant=variant) for variant in ("classifier", "clipid_no_text"))
    for run in (first, second):
        encoder_finetune.finetune_encoder(run, stages.load_backbone(run))
    alone = retrieval.rankings(second, stages.load_trained(second))
    assert list(alone) == ["stage 0, frozen", "this run, clipid_no_text"]
    facts = {"protocols": {}, "compared_sha": first.manifest.compared_sha, "seed": 0}
    write_json(first.folder / "metrics.json", facts)
    named = retrieval.rankings(second, stages.load_trained(second))
    assert list(named) == ["stage 0, frozen", "stage 1, classifier", "this run, clipid_no_text"]
    assert len({tuple(ranking.query["path"]) for ranking in named.values()}) == 1
    scores = [ranking.similarity for ranking in named.values()]
    assert not np.allclose(scores[0], scores[1]) and not np.allclose(scores[1], scores[2])
    assert list(retrieval.rankings(first, stages.load_trained(first))) == ["stage 0, frozen", "this run, classifier"]


def test_everybody_tested_is_on_the_map_in_all_aspects(open_run, monkeypatch):
    run = open_run(variant="frozen")
    images = retrieval.tested_people(run)
    assert set(images["identity"]) == set(run.manifest.test["subject"])
    assert images["aspect"].nunique() == 4 and not images["path"].duplicated().any()
    monkeypatch.setattr(retrieval, "MOST", 10)
    few = retrieval.tested_people(run)
    assert len(few) == 10 and few["path"].iloc[[0, -1]].tolist() == images["path"].iloc[[0, -1]].tolist()


def test_groups_are_what_tells_several_queries_apart(two):
    assert choices.groups(two[0]) == {"gender": ["female", "male"]}
    query = two[0].query.assign(age=range(4), session=1, nail_polish=[True, False, False, True])
    assert choices.groups(Ranking(query, two[0].gallery, np.eye(4))) == {
        "gender": ["female", "male"],
        "age": [0, 1, 2, 3],
        "nail_polish": [False, True],
    }


def test_a_sentence_finds_what_it_says(open_run):
    run = open_run(variant="frozen", demo_people=12)
    images = run.table[run.table["aspect"].isin(["dorsal_r", "palmar_r"])]
    for sentence, aspect in (
        ("a photo of the back of a hand", "dorsal_r"),
        ("a photo of the palm of a hand", "palmar_r"),
    ):
        found = retrieval.ask(run, stages.pretrained(run), images, sentence, top=10)
        assert (found["aspect"] == aspect).mean() >= 0.8  # the small CLIP tells them apart nearly always
        assert found["score"].is_monotonic_decreasing and len(found) == 10
    drawn = retrieval.strip(found, run.data_root, sentence)
    assert drawn.width > drawn.height
    with pytest.raises(UserError, match="sentence: is empty"):
        retrieval.ask(run, stages.pretrained(run), images, "  ")
