from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor, ImageDraw
from small_rankings import draw_pictures, table

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.pages import overlays
from clipreid_lib.pages.overlays import DROP, FRAME, GAP, HEAD, WIDEST, overlay, wrap
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.pages.style import RIGHT, WRONG, font

STEP = WIDEST + 2 * FRAME + GAP


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


@pytest.fixture
def case(small):
    """The small ranking with its pictures, its scores halved: none is a cosine of the network, so all legends agree."""
    ranking, root = small
    return Photographs(root), Ranking(ranking.query, ranking.gallery, ranking.similarity / 2), root


def frame_of_the_match(sheet, row=0):
    return sheet.getpixel((2 * GAP + STEP + WIDEST, row + HEAD + 2))


def test_a_pair_is_drawn_with_its_verdict(case, clip):
    photographs, ranking, _ = case
    right, wrong = (
        overlays.draw_pair(clip, photographs, ranking, 0, 1),
        overlays.draw_pair(clip, photographs, ranking, 1, 1),
    )
    assert right.mode == "RGB" and right.size == wrong.size and right.width == 2728
    assert frame_of_the_match(right) == ImageColor.getrgb(RIGHT)
    assert frame_of_the_match(wrong) == ImageColor.getrgb(WRONG)
    best = overlays.draw_pair(clip, photographs, ranking, 1, rank=ranking.first_hit()[1])
    assert frame_of_the_match(best) == ImageColor.getrgb(RIGHT)


def test_the_photograph_stands_there_as_the_model_gets_it(case, clip):
    photographs, ranking, root = case
    sheet = overlays.draw_pair(clip, photographs, ranking, 0, 1)
    corner = 2 * GAP + FRAME, HEAD + FRAME
    drawn = np.asarray(sheet.crop((*corner, corner[0] + WIDEST, corner[1] + WIDEST)).resize((96, 96)), float)
    expected = photographs.load(ranking.query.iloc[:1], 96)[0].transpose(1, 2, 0)  # 80 x 60, squashed
    assert np.abs(drawn - expected).mean() < 3
    cropped = Photographs(root, rule="crop")
    assert np.abs(np.asarray(overlays.draw_pair(clip, cropped, ranking, 0, 1), float) - np.asarray(sheet)).mean() > 1


def test_rows_show_the_best_true_match_below_a_wrong_first(case, clip):
    photographs, ranking, _ = case
    one, two, all_three = (
        overlays.draw_queries(clip, photographs, ranking, queries) for queries in ([0], [1], [0, 1, 2])
    )
    assert one.tobytes() == overlays.draw_pair(clip, photographs, ranking, 0, 1).tobytes()
    row = two.height - one.height
    assert row > WIDEST and all_three.height == one.height + 4 * row + 32  # queries 1 and 2 take two rows each,
    # and query 2's first is a distractor, the other hand, whose caption has a line more
    assert frame_of_the_match(two) == ImageColor.getrgb(WRONG)
    assert frame_of_the_match(two, row) == ImageColor.getrgb(RIGHT)


def test_look_gives_the_numbers(case, clip):
    photographs, ranking, _ = case
    look = overlays.look(clip, photographs, ranking, 2, rank=2)
    assert look.pair["path"].tolist() == ["q2.jpg", "g0.jpg"] and look.result.rank == 2
    assert look.heat.maps.shape == (2, 3, 3) and look.grid == (6, 6) and 0 < len(look.alike) <= 12


@pytest.mark.parametrize(
    "query, rank, message",
    [(9, 1, "query: 9 is not there; positions go from 0 to 2"), (-1, 1, "query: -1"), (0, 5, "ranks 1 to 4")]
    + [(0, 0, "rank: 0 is not there")],
)
def test_what_is_not_there_is_told(case, clip, query, rank, message):
    photographs, ranking, _ = case
    with pytest.raises(UserError, match=message):
        overlays.draw_pair(clip, photographs, ranking, query, rank)
    with pytest.raises(UserError, match="queries: none are given"):
        overlays.draw_queries(clip, photographs, ranking, [])


def test_files_that_are_gone_or_broken_leave_a_tile_that_says_so(case, clip, monkeypatch):
    photographs, ranking, root = case
    (root / "g0.jpg").unlink()
    (root / "q1.jpg").write_bytes(b"no image")
    said = []
    draw = ImageDraw.ImageDraw.text

    def text(self, at, words, *more, **options):
        said.append(words)
        draw(self, at, words, *more, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    whole = overlays.draw_queries(clip, photographs, ranking, [0, 1, 2])
    assert {"file missing", "no map: file missing", "no lines: file unreadable", "file unreadable"} <= {*said}
    assert any("HiResCAM" in words for words in said)  # query 2 and its first are there
    said.clear()
    lost = overlays.draw_pair(clip, photographs, ranking, 0, 1)
    assert lost.width == whole.width and said[-1] == "No map and no lines: a photograph is missing or cannot be read."


def test_hostile_names_do_not_break(tmp_path, clip):
    names = ["<script>alert(1)</script>", "手 $x$\n\\frac"]
    query, shelf = table(names, "q", aspect="dorsal_r\n手"), table(names * 2, "g", aspect="<b>" * 40)
    draw_pictures(tmp_path, query, shelf)
    ranking = Ranking(query, shelf, np.random.default_rng(0).uniform(0, 1, (2, 4)))
    assert overlays.draw_queries(clip, Photographs(tmp_path), ranking, [0, 1]).width == 2728


def test_side_information_of_the_rows_is_passed_on(case, monkeypatch):
    photographs, ranking, _ = case
    given = []

    def heat(clip, pair, side):
        given.extend(side)
        raise InterruptedError  # all there is to see has been seen

    monkeypatch.setattr(overlays.attention, "map_heat", heat)
    clip = SimpleNamespace(image_size=(96, 96), side_rows=lambda rows: rows["path"].tolist())
    with pytest.raises(InterruptedError):
        overlays.look(clip, photographs, ranking, 0, 1)
    assert given == ["q0.jpg", "g0.jpg"]


def test_heat_lies_where_its_places_are_and_cold_stays_grey():
    heat = np.zeros((4, 5))
    heat[1, 3] = 1
    photograph, where = (
        Image.new("RGB", (80, 40), (200, 100, 50)),
        (np.arange(4) / 4 + 1 / 8, np.arange(5) / 5 + 1 / 10),
    )
    picture = np.asarray(overlay(photograph, heat, where, (0, 1)), float)
    row, column = np.unravel_index((picture @ [0.299, 0.587, 0.114]).argmax(), (40, 80))  # the brightest is hottest
    assert abs(row - 15) <= 1 and abs(column - 56) <= 1
    colour = picture.max(axis=2) - picture.min(axis=2)
    assert colour[:, :39].max() == 0 and colour[26:].max() == 0  # nothing beyond the neighbours' middles
    flat = np.asarray(overlay(photograph, np.zeros((4, 5)), where, (0, 0)), float)
    assert flat.std() == 0


def test_wrapped_text_fits_and_loses_no_word():
    face, text = font(24), "one two three " * 20 + "averyveryverylongwordindeed"
    lines = wrap(text, face, 300)
    assert " ".join(lines).split() == text.split()
    assert all(face.getlength(line) <= 300 or " " not in line for line in lines)
    assert wrap("", face, 300) == [""]


def test_lines_end_on_the_places_they_join(case, clip):
    photographs, ranking, _ = case
    look = overlays.look(clip, photographs, ranking, 0, 1)
    alike = pd.DataFrame([[0, 0, 5, 5, 0.9]], columns=look.alike.columns)
    one, plain = (overlays.draw_looks(clip, [look._replace(alike=each)]) for each in (alike, alike.iloc[:0]))
    changed = (np.asarray(one) != np.asarray(plain)).any(axis=2)
    changed[:HEAD] = False  # the titles differ too
    rows, columns = np.nonzero(changed)
    cell, left = WIDEST / 6, one.width - 2 * GAP - WIDEST - FRAME
    assert rows.min() == pytest.approx(HEAD + FRAME + cell / 2, abs=20)
    assert rows.max() == pytest.approx(HEAD + DROP + FRAME + 5.5 * cell, abs=20)
    assert columns.max() == pytest.approx(left + 5.5 * cell, abs=20)
