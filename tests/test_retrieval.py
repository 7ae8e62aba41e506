import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_runs import finetune

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json
from clipreid_lib.pages import choices, gallery, gallery_page, overlays, retrieval
from clipreid_lib.pages.browser import browse
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.runs import loading, rankings, records
from clipreid_lib.runs.run import Run


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
    assert choices.choose_named(two[0], "x/b.jpg").tolist() == choices.choose_named(two[0], "b.jpg").tolist() == [1]
    with pytest.raises(UserError, match=r"query: none of 4 is called 'b.jpeg'; nearest: .*b\.jpg"):
        choices.choose_named(two[0], "b.jpeg")


def test_queries_by_outcome(two):
    before, after = two
    assert set(choices.choose_wrong(before)) == {0, 3} and set(choices.choose_wrong(after)) == {2, 3}
    assert choices.choose_changed(before, after).tolist() == [0]
    assert choices.choose_changed(before, after, falling=True).tolist() == [2]
    assert choices.choose_wrong(Ranking(before.query, before.gallery, np.eye(4))).tolist() == []
    assert sorted(choices.choose_random(before)) == [0, 1, 2, 3]
    assert choices.choose_random(before, seed=1).tolist() == choices.choose_random(before, seed=1).tolist()
    other = Ranking(before.query.iloc[::-1], before.gallery, np.eye(4)[::-1])
    with pytest.raises(UserError, match="they answer other queries"):
        choices.choose_changed(before, other)


def test_queries_by_group(two):
    assert choices.choose_group(two[1], "gender", "female").tolist() == [2, 0]  # the worst first
    assert choices.choose_group(two[1], "gender", "not given").tolist() == [3]


def test_before_and_after_draws_one_row_per_stage(two, tmp_path):
    named = dict(zip(("stage 0", "stage 2"), two, strict=True))
    one = gallery.draw_queries(two[0], tmp_path, [0], top=3, title="stage 0")
    both = gallery.draw_stages(named, tmp_path, 0, top=3)
    assert both.height == sum(gallery.draw_queries(each, tmp_path, [0], top=3, title="x").height for each in two)
    assert both.width >= one.width
    moved = gallery.draw_moved(named, tmp_path, top=3)
    assert moved.height > 1.5 * both.height  # the one that rose and the one that fell
    assert gallery.draw_moved({"alone": two[0]}, tmp_path, top=3).height < both.height


def scored(compared_sha: str) -> dict:
    """What a run's metrics.json says at least."""
    own = {"rank1": 0.5, "map": 0.5, "over": "all galleries", "compared_sha": compared_sha}
    return {**own, "protocols": {"own": own}}


def rank(run):
    return rankings.rank_stages(run, loading.load_pretrained_encoder(run), loading.load_trained_encoder(run))


def test_every_stage_at_hand_ranks_the_same_draw(open_run, tmp_path):
    first, second = (open_run(fresh=tmp_path, variant=variant) for variant in ("classifier", "clipid_no_text"))
    for run in (first, second):
        finetune(run)
    alone = rank(second)
    assert list(alone) == ["stage 0, frozen", "this run, clipid_no_text"]
    write_json(first.folder / "metrics.json", scored(first.manifest.compared_sha))
    named = rank(second)
    assert list(named) == ["stage 0, frozen", "stage 1, classifier", "this run, clipid_no_text"]
    assert len({tuple(ranking.query["path"]) for ranking in named.values()}) == 1
    scores = [ranking.similarity for ranking in named.values()]
    assert not np.allclose(scores[0], scores[1]) and not np.allclose(scores[1], scores[2])
    assert list(rank(first)) == ["stage 0, frozen", "this run, classifier"]


def test_only_a_classifier_of_the_same_backbone_and_draws_stands_before_a_run(open_run, tmp_path):
    mine = open_run(fresh=tmp_path, variant="clipid_no_text")
    finetune(mine)
    others = [
        open_run(fresh=tmp_path, variant="frozen", experiment="a-classifier-x"),
        open_run(fresh=tmp_path, variant="classifier", last_stride=1),
        open_run(fresh=tmp_path, variant="classifier", seed=1),
        open_run(fresh=tmp_path, variant="classifier", experiment="no_checkpoint"),
    ]
    for other in others:
        write_json(other.folder / "metrics.json", scored(mine.manifest.compared_sha))
    broken = tmp_path / "runs" / "b-classifier-y"
    write_json(broken / "metrics.json", scored(mine.manifest.compared_sha))
    (broken / "params.yaml").write_text("colour: red\n")  # of another version
    named = rank(mine)
    assert list(named) == ["stage 0, frozen", "this run, clipid_no_text"]


def test_an_image_gone_or_broken_since_the_evaluation_is_a_tile_that_says_so(open_run, hands, tmp_path):
    root = shutil.copytree(hands, tmp_path / "hands")
    run = open_run(fresh=tmp_path / "out", variant="frozen", dataset="11k", data_root=str(root), protocol="common")
    encoder = loading.load_trained_encoder(run)
    images = run.manifest.images[run.manifest.images["draw_0"] != ""]
    *_, ranking = rank(run).values()
    for product in records.list_products(run.params, run.folder, "04_evaluation"):
        write_json(product, {"manifest_sha": run.manifest.sha})
    run.finish("04_evaluation")
    gone, broken = ranking.query["path"].iloc[[0, 1]]
    (root / gone).unlink()
    (root / broken).write_bytes(b"no picture")

    again = Run.at(run.folder)
    assert set(again.table["path"]) == set(run.table["path"]) and len(images)
    *_, after = rankings.rank_stages(again, encoder, encoder).values()
    assert np.array_equal(after.similarity, ranking.similarity)
    drawn = gallery.draw_queries(after, again.data_root, [0, 1], top=3)
    assert drawn.size == gallery.draw_queries(ranking, hands, [0, 1], top=3).size
    told = json.loads(re.search('id="data">(.*?)</script>', write_page(after, root, tmp_path)).group(1))
    assert told["absent"] == {gone: "file missing", broken: "file unreadable"}
    assert overlays.draw_queries(encoder.backbone, again.photographs, after, [0, 1]).width > 1000
    assert isinstance(browse({"": after}, encoder, again.photographs, images=again.table, before=encoder), Image.Image)
    (again.folder / "done" / "04_evaluation.json").unlink()  # what is to be scored must be whole
    with pytest.raises(UserError, match="1 of 128 images named in HandInfo.csv are absent"):
        Run.at(run.folder).manifest  # noqa: B018


def write_page(ranking, root, folder) -> str:
    return gallery_page.write(ranking, root, folder / "page.html", title="t").read_text(encoding="utf-8")


def test_everybody_tested_is_on_the_map_in_all_aspects(open_run, monkeypatch):
    run = open_run(variant="frozen")
    images = rankings.list_tested(run)
    assert set(images["identity"]) == set(run.manifest.test["subject"])
    assert images["aspect"].nunique() == 4 and not images["path"].duplicated().any()
    monkeypatch.setattr(rankings, "MOST", 10)
    few = rankings.list_tested(run)
    assert len(few) == 10 and few["path"].iloc[[0, -1]].tolist() == images["path"].iloc[[0, -1]].tolist()


def test_groups_are_what_tells_several_queries_apart(two):
    gender = ["female", "male", "female", "not given"]
    assert choices.list_groups(two[0]) == {"gender": gender}
    session = pd.array([1, None, 1, 1], "Int64")
    query = two[0].query.assign(age=range(4), camera=1, nail_polish=[True, False, False, True], session=session)
    ranking = Ranking(query.assign(gender=["female", "male", "female", ""]), two[0].gallery, np.eye(4))
    assert choices.list_groups(ranking) == {
        "gender": gender,
        "age": ["0", "1", "2", "3"],
        "nail_polish": ["yes", "no", "no", "yes"],
        "session": ["1", "not given", "1", "1"],
    }
    assert sorted(choices.choose_group(ranking, "session", "1")) == [0, 2, 3]
    assert sorted(choices.choose_group(ranking, "nail_polish", "no")) == [1, 2]


def test_a_sentence_finds_what_it_says(open_run):
    run = open_run(variant="frozen", demo_people=12)
    images = run.table[run.table["aspect"].isin(["dorsal_r", "palmar_r"])]
    for sentence, aspect in (
        ("a photo of the back of a hand", "dorsal_r"),
        ("a photo of the palm of a hand", "palmar_r"),
    ):
        found = retrieval.ask(loading.load_pretrained_encoder(run), images, sentence, top=10)
        assert (found["aspect"] == aspect).mean() >= 0.8  # the small CLIP tells them apart nearly always
        assert found["score"].is_monotonic_decreasing and len(found) == 10
    drawn = gallery.draw_found(found, run.data_root, sentence)
    assert drawn.width > drawn.height
    with pytest.raises(UserError, match="sentence: is empty"):
        retrieval.ask(loading.load_pretrained_encoder(run), images, "  ")
