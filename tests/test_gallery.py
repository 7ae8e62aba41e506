import re

import numpy as np
import pytest
from PIL import ImageColor
from sklearn.metrics import average_precision_score
from small_rankings import random_ranking, table

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages.gallery import Tile, draw_queries, draw_rows
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.pages.style import MISSED, RIGHT, WRONG
from clipreid_lib.scores import metrics

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
        (lambda q, g, s: (q, g, s[:, 1:]), "12 query and 11 gallery images"),
        (lambda q, g, s: (q, g, np.where(s == s.max(), np.nan, s)), "without NaN"),
        (lambda q, g, s: (q.assign(identity=[99, *q["identity"][1:]]), g, s), "q0.jpg has no true match"),
    ],
)
def test_a_ranking_that_cannot_be_scored_is_refused(change, message):
    ranking = random_ranking()
    with pytest.raises(UserError, match=re.escape(message)):
        Ranking(*change(ranking.query, ranking.gallery, ranking.similarity))


@pytest.mark.parametrize(
    "mine, other, subject, note",
    [
        ("dorsal_r", "dorsal_l", 2, "distractor\ndorsal left"),
        ("dorsal_r", "dorsal_r", 2, "distractor"),
        ("dorsal_r", "dorsal_l", 1, "other hand, distractor\ndorsal left"),
        ("palmar left", "dorsal right", 1, "other hand, distractor\ndorsal right"),
        ("dorsal_r", "palmar_r", 1, "same hand, distractor\npalmar right"),
        ("left back", "left palm", 1, "same hand, distractor\nleft palm"),
        ("back", "palm", 1, "same person, distractor\npalm"),
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
    exact = random_ranking(queries=20, people=5, per_person=3)
    ranking = Ranking(exact.query, exact.gallery, exact.similarity.round(1))  # with many ties
    scores = metrics.score_similarity(
        ranking.similarity, ranking.query["identity"].to_numpy(), ranking.gallery["identity"].to_numpy()
    )
    assert ranking.average_precision().mean() == pytest.approx(scores.map)
    assert (ranking.first_hit() == 1).mean() == pytest.approx(scores.at[1])
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
    assert frames(draw_queries(ranking, root, [0], top=1)) == {RIGHT}
    assert frames(draw_queries(ranking, root, [1], top=1)) == {WRONG, MISSED}
    assert frames(draw_queries(ranking, root, [1], top=3)) == {WRONG, RIGHT}
    assert frames(draw_queries(ranking, root, [0, 2], top=3)) == {WRONG, RIGHT, MISSED}


def test_sheet_is_as_wide_as_what_it_shows(small):
    ranking, root = small
    widths = [draw_queries(ranking, root, [1], top=top).width for top in (1, 2, 3, 4, 50)]
    assert widths[0] < widths[1] == widths[2] < widths[3] == widths[4]  # top 2 + the late match = top 3 without


def test_sheet_rows_follow_the_queries_given(small):
    ranking, root = small
    both, swapped = (np.asarray(draw_queries(ranking, root, order, top=4)) for order in ([0, 1], [1, 0]))
    first = np.asarray(draw_queries(ranking, root, [0], top=4))
    assert (both[: len(first)] == first).all() and (swapped[: len(first)] != first).any()


def test_a_title_makes_room_for_itself_and_a_long_one_is_cut(small):
    ranking, root = small
    plain, titled = draw_queries(ranking, root, [0]), draw_queries(ranking, root, [0], title="a long title " * 50)
    assert titled.width == plain.width and titled.height > plain.height


@pytest.mark.parametrize(
    "queries, message",
    [([], "queries: none are given"), ([3], "query: 3 is not there; positions go from 0 to 2"), ([-1], "query: -1")],
)
def test_sheet_refuses_what_it_cannot_draw(small, queries, message):
    ranking, root = small
    with pytest.raises(UserError, match=message):
        draw_queries(ranking, root, queries)


def test_right_and_wrong_differ_by_more_than_colour(tmp_path):
    tiles = []
    for tick in (True, False, None):
        tiles.append(draw_rows([("", [Tile(tmp_path / "none.jpg", ["a caption"], "#000000", tick)])]).tobytes())
    assert len(set(tiles)) == 3
