import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor
from sklearn.metrics import average_precision_score

from clipreid_lib import gallery, metrics
from clipreid_lib.errors import UserError
from clipreid_lib.gallery import MISSED, RIGHT, WRONG, Ranking, page, sheet
from clipreid_lib.thumbnails import draw_tile


def table(identities, prefix, aspect="dorsal_r", **columns):
    paths = [f"{prefix}{i}.jpg" for i in range(len(identities))]
    return pd.DataFrame({"path": paths, "identity": identities, "aspect": aspect, **columns})


def draw_pictures(root, *tables, size=(80, 60)):
    generator = np.random.default_rng(0)
    for name in pd.concat(tables)["path"].unique():
        coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)  # soft blobs, about as dense as a photo
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(Path(root, name), quality=90)


def random_ranking(queries=12, people=6, per_person=2, seed=0):
    generator = np.random.default_rng(seed)
    query = table(np.arange(queries) % people, "q")
    shelf = table(np.repeat(np.arange(people), per_person), "g")
    return Ranking(query, shelf, generator.uniform(-1, 1, (queries, len(shelf))))


@pytest.fixture
def small(tmp_path):
    """Three queries: right at rank 1; right at rank 3; right only at rank 4, behind a distractor."""
    query = table([1, 2, 3], "q", subject=[1, 2, 3], role="test")
    shelf = table([1, 2, 3, 11000003], "g", subject=[1, 2, 3, 3], role=["test"] * 3 + ["distractor"])
    shelf.loc[3, "aspect"] = "dorsal_l"
    scores = np.array([[0.9, 0.5, 0.1, 0.0], [0.8, 0.2, 0.3, 0.1], [0.7, 0.6, -0.4, 0.95]])
    draw_pictures(tmp_path, query, shelf)
    query.index, shelf.index = [7, 5, 5], [9, 3, 3, 0]  # cut from a larger table, so labels are no positions
    return Ranking(query, shelf, scores), tmp_path


class Reader(HTMLParser):
    """Collects what a browser would build: tags, attribute values and the text of the data block."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.values, self.data, self.inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += [(name, value) for name, value in attrs]
        self.inside = ("id", "data") in attrs

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.data += data if self.inside else ""


def read(target):
    return json.loads(Reader(Path(target).read_text(encoding="utf-8")).data)


# --- the numbers -------------------------------------------------------------------------------------------


def test_order_puts_wrong_before_right_on_equal_scores_and_then_goes_by_position():
    shelf = table([5, 6, 5, 7, 6], "g")
    ranking = Ranking(table([5], "q"), shelf, np.array([[0.4, 0.4, 0.9, 0.4, 0.1]]))
    assert ranking.order(0).tolist() == [2, 1, 3, 0, 4]
    assert ranking.first_hit().tolist() == [1]
    assert ranking.average_precision() == pytest.approx([(1 / 1 + 2 / 4) / 2])


def test_a_constant_score_is_the_worst_possible_ranking():
    ranking = Ranking(table([1, 2], "q"), table([1, 1, 2, 3], "g"), np.zeros((2, 4)))
    assert ranking.first_hit().tolist() == [3, 4]
    assert ranking.average_precision() == pytest.approx([(1 / 3 + 2 / 4) / 2, 1 / 4])


def test_first_hit_and_average_precision_agree_with_a_second_implementation():
    ranking = random_ranking(queries=30, people=6, per_person=4)
    for q in range(30):
        right = (ranking.gallery["identity"] == ranking.query["identity"].iloc[q]).to_numpy()
        expected = average_precision_score(right, ranking.similarity[q])
        assert ranking.average_precision()[q] == pytest.approx(expected)
        best = ranking.similarity[q][right].max()
        assert ranking.first_hit()[q] == 1 + (ranking.similarity[q] > best).sum()


def test_hardest_goes_by_first_hit_then_by_precision_then_by_position():
    shelf = table([1, 1, 2, 2], "g")
    late, middling = [0.1, 0.2, 0.9, 0.8], [0.5, 0.7, 0.9, 0.1]
    spread, close = [0.9, 0.1, 0.5, 0.4], [0.9, 0.8, 0.5, 0.4]
    ranking = Ranking(table([1] * 5, "q"), shelf, np.array([close, spread, late, middling, late]))
    assert ranking.hardest(5).tolist() == [2, 4, 3, 1, 0]
    assert ranking.hardest(2).tolist() == [2, 4]
    assert ranking.hardest(99).tolist() == [2, 4, 3, 1, 0]
    assert ranking.hardest(0).tolist() == []


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda q, g, s: (q.drop(columns="aspect"), g, s), "query table lacks the column(s) aspect"),
        (lambda q, g, s: (q, g, s[:, 1:]), "similarity has shape"),
        (lambda q, g, s: (q, g, np.where(s == s.max(), np.nan, s)), "not finite"),
        (lambda q, g, s: (q.assign(identity=99), g, s), "q0.jpg has no true match"),
    ],
)
def test_a_ranking_that_cannot_be_scored_is_refused(change, message):
    ranking = random_ranking()
    with pytest.raises(ValueError, match=re.escape(message)):
        Ranking(*change(ranking.query, ranking.gallery, ranking.similarity))


@pytest.mark.parametrize(
    "mine, other, subject, note",
    [
        ("dorsal_r", "dorsal_l", 2, "other hand\ndorsal left"),
        ("dorsal_r", "palmar_r", 2, "other aspect\npalmar right"),
        ("palmar left", "dorsal right", 1, "other aspect\ndorsal right\nsame person"),
        ("dorsal", "dorsal", 2, "distractor\ndorsal"),
    ],
)
def test_distractors_say_what_they_are(mine, other, subject, note):
    query = table([1], "q", aspect=mine, subject=[1])
    shelf = table([1, 11000002], "g", subject=[1, subject], role=["test", "distractor"])
    shelf["aspect"] = [mine, other]
    found, late = Ranking(query, shelf, np.array([[0.1, 0.9]])).row(0, top=2)
    assert [tile.note for tile in found] == [note, ""] and late == []


def test_tables_need_neither_role_nor_subject():
    found, _ = random_ranking().row(0, top=5)
    assert {tile.note for tile in found} == {""}


def test_numbers_are_those_of_the_metrics():
    ranking = random_ranking(queries=20, people=5, per_person=3)
    ranking.similarity[:] = ranking.similarity.round(1)  # with many ties
    scores = metrics.score_similarity(
        ranking.similarity, ranking.query["identity"].to_numpy(), ranking.gallery["identity"].to_numpy()
    )
    assert ranking.average_precision().mean() == pytest.approx(scores.map)
    assert (ranking.first_hit() == 1).mean() == pytest.approx(scores.rank(1))
    for q in range(20):  # and the pictures show them
        found, _ = ranking.row(q, top=15)
        assert min(tile.rank for tile in found if tile.right) == scores.first_hit[q]


# --- the sheet ---------------------------------------------------------------------------------------------


def frames(image):
    """Return which of the three frame colours the image has whole frames of, not just a stray pixel."""
    pixels = np.asarray(image).reshape(-1, 3)
    counts = {colour: (pixels == ImageColor.getrgb(colour)).all(axis=1).sum() for colour in (RIGHT, WRONG, MISSED)}
    return {colour for colour, count in counts.items() if count > 1500}


def test_sheet_marks_right_wrong_and_the_match_that_came_late(small):
    ranking, root = small
    assert frames(sheet(ranking, root, [0], top=1)) == {RIGHT}
    assert frames(sheet(ranking, root, [1], top=1)) == {WRONG, MISSED}
    assert frames(sheet(ranking, root, [1], top=3)) == {WRONG, RIGHT}
    assert frames(sheet(ranking, root, [0, 2], top=3)) == {WRONG, RIGHT, MISSED}


def test_sheet_is_as_wide_as_what_it_shows(small):
    ranking, root = small
    widths = [sheet(ranking, root, [1], top=top).width for top in (1, 2, 3, 4, 50)]
    assert widths[0] < widths[1] == widths[2] < widths[3] == widths[4]  # top 2 + the late match = top 3 without


def test_sheet_rows_follow_the_queries_given(small):
    ranking, root = small
    both, swapped = (np.asarray(sheet(ranking, root, order, top=4)) for order in ([0, 1], [1, 0]))
    first = np.asarray(sheet(ranking, root, [0], top=4))
    assert (both[: len(first)] == first).all() and (swapped[: len(first)] != first).any()


def test_a_title_makes_room_for_itself_and_a_long_one_is_cut(small):
    ranking, root = small
    plain, titled = sheet(ranking, root, [0]), sheet(ranking, root, [0], title="a long title " * 50)
    assert titled.width == plain.width and titled.height > plain.height


@pytest.mark.parametrize(
    "queries, top, message",
    [
        ([], 8, "at least one query"),
        ([3], 8, "0 to 2"),
        ([-1], 8, "0 to 2"),
        ([0], 0, "top must be at least 1"),
    ],
)
def test_sheet_refuses_what_it_cannot_draw(small, queries, top, message):
    ranking, root = small
    with pytest.raises(ValueError, match=message):
        sheet(ranking, root, queries, top=top)


# --- the page ----------------------------------------------------------------------------------------------


def test_page_holds_every_query_hardest_first_with_its_late_match(small):
    ranking, root = small
    data = read(page(ranking, root, root / "new" / "index.html", title="t", top=2, facts={"mAP": "0.5"}))
    assert data["facts"] == [["mAP", "0.5"]] and data["top"] == 2
    assert [query[1] for query in data["queries"]] == ["3", "2", "1"]
    assert [query[4] for query in data["queries"]] == [4, 3, 1]  # rank of the first hit
    path, identity, aspect, precision, first, tiles, late = data["queries"][0]
    assert (path, identity, aspect, precision, late) == ("q2.jpg", "3", "dorsal right", 0.25, 1)
    told = [
        (data["gallery"][place][1], rank, score, right, data["notes"][note])
        for place, rank, score, right, note in tiles
    ]
    assert told == [
        ("11000003", 1, 0.95, 0, "other hand\ndorsal left\nsame person"),
        ("1", 2, 0.7, 0, ""),
        ("3", 4, -0.4, 1, ""),  # beyond top 2, shown with its rank
    ]
    assert [len(query[5]) for query in data["queries"]] == [3, 3, 2]


def test_page_clamps_top_to_the_gallery(small):
    ranking, root = small
    data = read(page(ranking, root, root / "p.html", title="t", top=99))
    assert data["top"] == 4 and {len(query[5]) for query in data["queries"]} == {4}
    assert {query[6] for query in data["queries"]} == {0}


def test_each_thumbnail_stands_in_the_page_once(small):
    ranking, root = small
    text = page(ranking, root, root / "p.html", title="t").read_text(encoding="utf-8")
    images = read(root / "p.html")["images"]
    assert set(images) == {*ranking.query["path"], *ranking.gallery["path"]}
    assert all(text.count(code) == 1 and code.startswith("/9j/") for code in images.values())


def test_a_picture_that_no_row_shows_stays_out_of_the_page(tmp_path):
    query, shelf = table([1], "q"), table([1, 2, 3], "g")
    draw_pictures(tmp_path, query, shelf)
    data = read(
        page(
            Ranking(query, shelf, np.array([[0.9, 0.1, 0.2]])),
            tmp_path,
            tmp_path / "p.html",
            title="t",
            top=1,
        )
    )
    assert set(data["images"]) == {"q0.jpg", "g0.jpg"} and len(data["gallery"]) == 1


def test_text_from_the_data_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script><!-- <b>&amp; __DATA__"
    query, shelf = table([evil], "q", aspect=evil), table([evil, "b"], "g")
    query.loc[0, "path"] = "<script>.jpg"
    ranking = Ranking(query, shelf, np.array([[0.1, 0.2]]))
    plain = Ranking(table(["a"], "q"), table(["a", "b"], "g"), np.array([[0.1, 0.2]]))
    target = page(ranking, tmp_path, tmp_path / "evil.html", title=evil, facts={evil: evil})
    other = page(plain, tmp_path, tmp_path / "plain.html", title="t", facts={"a": "b"})
    assert Reader(target.read_text("utf-8")).tags == Reader(other.read_text("utf-8")).tags
    data = read(target)  # and it comes out unchanged
    assert data["title"] == evil and data["facts"] == [[evil, evil]]
    assert data["queries"][0][:2] == ["<script>.jpg", evil]
    block = Reader(target.read_text("utf-8")).data
    assert not set("<>&") & set(block)


def test_the_script_never_writes_markup():
    script = Path(gallery.__file__).with_name("gallery_page.html").read_text("utf-8")
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert name not in script


def test_the_page_needs_no_network_and_says_when_it_needs_a_script(small):
    ranking, root = small
    text = page(ranking, root, root / "p.html", title="t").read_text("utf-8")
    reader = Reader(text)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not {"src", "href"} & {name for name, _ in reader.values}
    assert any(value and "default-src 'none'" in value for _, value in reader.values)
    assert re.search(r"<noscript><p>.+JavaScript.+</p></noscript>", text)


def test_files_that_cannot_be_opened_become_tiles_that_say_so(small):
    ranking, root = small
    whole = np.asarray(sheet(ranking, root, [0, 1, 2]))
    (root / "q0.jpg").unlink()
    (root / "g1.jpg").write_bytes(b"no picture")
    (root / "g2.jpg").write_bytes((root / "g2.jpg").read_bytes()[:400])  # a download that broke off
    data = read(page(ranking, root, root / "p.html", title="t"))
    assert data["absent"] == {
        "q0.jpg": "file missing",
        "g1.jpg": "file unreadable",
        "g2.jpg": "file unreadable",
    }
    assert not set(data["absent"]) & set(data["images"])
    holed = np.asarray(sheet(ranking, root, [0, 1, 2]))
    assert holed.shape == whole.shape and (holed != whole).any()


def test_a_failing_page_leaves_the_old_one_alone(small, monkeypatch):
    ranking, root = small
    target = root / "out" / "p.html"
    page(ranking, root, target, title="old")

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(UserError, match="No space left"):
        page(ranking, root, target, title="new")
    assert read(target)["title"] == "old"
    assert [path.name for path in target.parent.iterdir()] == ["p.html"]


def test_a_page_without_queries_is_refused(small):
    ranking, root = small
    empty = Ranking(ranking.query.iloc[:0], ranking.gallery, ranking.similarity[:0])
    with pytest.raises(ValueError, match="at least one query"):
        page(empty, root, root / "p.html", title="t")


def test_four_hundred_queries_stay_below_two_megabytes(tmp_path):
    query = table(np.arange(400) % 70, "q", subject=np.arange(400) % 70)
    people = np.r_[np.arange(70), 11_000_000 + np.arange(220)]
    shelf = table(people, "g", subject=people % 1000, role=np.where(people < 70, "test", "distractor"))
    shelf.loc[70:, "aspect"] = "palmar_l"
    draw_pictures(tmp_path, query, shelf, size=(160, 120))
    scores = np.random.default_rng(0).uniform(-1, 1, (400, 290))
    target = page(Ranking(query, shelf, scores), tmp_path, tmp_path / "p.html", title="t", top=10)
    data = read(target)
    assert len(data["queries"]) == 400 and len(data["images"]) == 690
    assert np.mean([len(code) for code in data["images"].values()]) > 1000  # the pictures are no mere flat colour
    assert target.stat().st_size < 2_000_000


def test_right_and_wrong_differ_by_more_than_colour(tmp_path):
    tiles = []
    for tick in (True, False, None):
        canvas = Image.new("RGB", (100, 120), "white")
        draw_tile(canvas, (0, 0), tmp_path / "none.jpg", 80, "#000000", ["a caption"], tick=tick)
        tiles.append(canvas.tobytes())
    assert len(set(tiles)) == 3
