import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_rankings import draw_pictures, table

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import gallery_page
from clipreid_lib.pages.gallery import draw_queries
from clipreid_lib.pages.ranking import Ranking


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


def tiles(data, query):
    """Unpack a query's tiles: (identity, score in thousandths, right, note)."""
    packed = zip(*[iter(query["tiles"])] * 3, strict=True)
    return [
        (data["gallery"][place]["identity"], score, bool(mark % 2), data["notes"][mark // 2])
        for place, score, mark in packed
    ]


def test_page_holds_every_query_hardest_first_with_its_late_match(small, monkeypatch):
    ranking, root = small
    monkeypatch.setattr(gallery_page, "MOST", 2)
    target = root / "new" / "index.html"
    data = read(gallery_page.write(ranking, root, target, title="t", top=1, facts={"mAP": "0.5"}))
    assert data["facts"] == [["mAP", "0.5"]] and (data["top"], data["most"]) == (1, 2)
    assert [query["identity"] for query in data["queries"]] == ["3", "2", "1"]
    assert [query["first"] for query in data["queries"]] == [4, 3, 1]
    hardest = data["queries"][0]
    assert {name: hardest[name] for name in ("path", "aspect", "ap", "late", "rank")} == {
        "path": "q2.jpg",
        "aspect": "dorsal right",
        "ap": 0.25,
        "late": 1,
        "rank": 4,
    }
    assert tiles(data, hardest) == [
        ("11000003", 950, False, "other hand, distractor\ndorsal left"),
        ("1", 700, False, ""),
        ("3", -400, True, ""),  # beyond the two that are held, so it comes with its rank
    ]
    assert [len(tiles(data, query)) for query in data["queries"]] == [3, 3, 2]
    assert "rank" not in data["queries"][2]


def test_page_clamps_top_and_most_to_the_gallery(small, monkeypatch):
    ranking, root = small
    data = read(gallery_page.write(ranking, root, root / "p.html", title="t", top=99))
    assert (data["top"], data["most"]) == (4, 4)
    assert {len(tiles(data, query)) for query in data["queries"]} == {4}
    assert {query["late"] for query in data["queries"]} == {0}
    monkeypatch.setattr(gallery_page, "MOST", 1)
    data = read(gallery_page.write(ranking, root, root / "p.html", title="t", top=3))
    assert (data["top"], data["most"]) == (3, 3)


def test_queries_can_be_chosen_by_what_varies_among_them(small):
    ranking, root = small
    query = ranking.query.assign(
        gender=["female", "", "female"],
        nail_polish=[True, False, True],
        session=pd.array([0, None, 10], "Int64"),
        camera=0,  # never varies
        name=["Zoë O'Neil", "", "3"],
    )
    data = read(
        gallery_page.write(Ranking(query, ranking.gallery, ranking.similarity), root, root / "p.html", title="t")
    )
    told = {
        query["identity"]: {
            name: values[place] for (name, values), place in zip(data["groups"], query["groups"], strict=True)
        }
        for query in data["queries"]
    }
    assert told["1"] == {"gender": "female", "nail polish": "yes", "session": "0"}
    assert told["2"] == {"gender": "not given", "nail polish": "no", "session": "not given"}
    assert told["3"]["session"] == "10"
    assert [query.get("name") for query in data["queries"]] == [None, None, "Zoë O'Neil"]  # 3 is called 3 anyway


def test_each_thumbnail_stands_in_the_page_once(small):
    ranking, root = small
    text = gallery_page.write(ranking, root, root / "p.html", title="t").read_text(encoding="utf-8")
    images = read(root / "p.html")["images"]
    assert set(images) == {*ranking.query["path"], *ranking.gallery["path"]}
    assert all(text.count(code) == 1 and code.startswith("/9j/") for code in images.values())


def test_a_picture_that_no_row_shows_stays_out_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_page, "MOST", 1)
    query, shelf = table([1], "q"), table([1, 2, 3], "g")
    draw_pictures(tmp_path, query, shelf)
    data = read(
        gallery_page.write(
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
    target = gallery_page.write(ranking, tmp_path, tmp_path / "evil.html", title=evil, facts={evil: evil})
    other = gallery_page.write(plain, tmp_path, tmp_path / "plain.html", title="t", facts={"a": "b"})
    assert Reader(target.read_text("utf-8")).tags == Reader(other.read_text("utf-8")).tags
    data = read(target)  # and it comes out unchanged
    assert data["title"] == evil and data["facts"] == [[evil, evil]]
    assert (data["queries"][0]["path"], data["queries"][0]["identity"]) == ("<script>.jpg", evil)
    block = Reader(target.read_text("utf-8")).data
    assert not set("<>&") & set(block)


def test_the_script_never_writes_markup():
    script = Path(gallery_page.__file__).with_name("gallery_page.html").read_text("utf-8")
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert name not in script


def test_the_page_needs_no_network_and_says_when_it_needs_a_script(small):
    ranking, root = small
    text = gallery_page.write(ranking, root, root / "p.html", title="t").read_text("utf-8")
    reader = Reader(text)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not {"src", "href"} & {name for name, _ in reader.values}
    assert any(value and "default-src 'none'" in value for _, value in reader.values)
    assert re.search(r"<noscript><p>.+JavaScript.+</p></noscript>", text)


def test_files_that_cannot_be_opened_become_tiles_that_say_so(small):
    ranking, root = small
    whole = np.asarray(draw_queries(ranking, root, [0, 1, 2]))
    (root / "q0.jpg").unlink()
    (root / "g1.jpg").write_bytes(b"no picture")
    (root / "g2.jpg").write_bytes((root / "g2.jpg").read_bytes()[:400])  # a download that broke off
    data = read(gallery_page.write(ranking, root, root / "p.html", title="t"))
    assert data["absent"] == {
        "q0.jpg": "file missing",
        "g1.jpg": "file unreadable",
        "g2.jpg": "file unreadable",
    }
    assert not set(data["absent"]) & set(data["images"])
    holed = np.asarray(draw_queries(ranking, root, [0, 1, 2]))
    assert holed.shape == whole.shape and (holed != whole).any()


def test_a_failing_page_leaves_the_old_one_alone(small, monkeypatch):
    ranking, root = small
    target = root / "out" / "p.html"
    gallery_page.write(ranking, root, target, title="old")

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(UserError, match="No space left"):
        gallery_page.write(ranking, root, target, title="new")
    assert read(target)["title"] == "old"
    assert [path.name for path in target.parent.iterdir()] == ["p.html"]


def test_four_hundred_queries_stay_below_two_megabytes(tmp_path):
    query = table(np.arange(400) % 70, "q", subject=np.arange(400) % 70)
    people = np.r_[np.arange(70), 11_000_000 + np.arange(220)]
    shelf = table(people, "g", subject=people % 1000, role=np.where(people < 70, "test", "distractor"))
    shelf.loc[70:, "aspect"] = "palmar_l"
    draw_pictures(tmp_path, query, shelf, size=(160, 120))
    scores = np.random.default_rng(0).uniform(-1, 1, (400, 290))
    target = gallery_page.write(Ranking(query, shelf, scores), tmp_path, tmp_path / "p.html", title="t")
    data = read(target)
    assert len(data["queries"]) == 400 and len(data["images"]) == 690
    assert np.mean([len(code) for code in data["images"].values()]) > 1000  # the pictures are no mere flat colour
    assert target.stat().st_size < 2_000_000
