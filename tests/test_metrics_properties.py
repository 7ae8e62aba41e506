"""Properties that hold for any features, and sizes at which rounding and blocks come into play."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores import metrics
from clipreid_lib.scores.metrics import score_retrieval, score_similarity
from clipreid_lib.scores.similarity import cosine_similarity

VALUES = st.floats(-8, 8, width=32).map(lambda value: round(value * 4) / 4)  # a coarse grid: many ties


@st.composite
def sets(draw):
    width = draw(st.integers(1, 4))
    queries, gallery = draw(st.integers(1, 8)), draw(st.integers(2, 12))
    features = [draw(arrays.arrays(np.float32, (n, width), elements=VALUES)) for n in (queries, gallery)]
    ids = [np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))) for n in (queries, gallery)]
    ids[1][0] = ids[0][0]  # somebody has a match
    return features[0], ids[0], features[1], ids[1]


def same(one, other, atol=1e-12):
    np.testing.assert_allclose(one.average_precision, other.average_precision, atol=atol)
    np.testing.assert_array_equal(one.first_hit, other.first_hit)
    np.testing.assert_allclose(
        [one.map, one.map_trapezoid, one.minp, *one.cmc], [other.map, other.map_trapezoid, other.minp, *other.cmc]
    )


def by_sorting(query, query_labels, gallery, gallery_labels):
    """Rank every row by its similarities, wrong ones first in a tie, and read the definitions off the order."""
    precisions, trapezoids, firsts, penalties = [], [], [], []
    for row, identity in zip(cosine_similarity(query, gallery).tolist(), query_labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda g: (-row[g], gallery_labels[g] == identity))
        ranks = [rank for rank, g in enumerate(order, 1) if gallery_labels[g] == identity]
        if not ranks:
            precisions.append(np.nan), trapezoids.append(np.nan), firsts.append(0), penalties.append(np.nan)
            continue
        at = [hits / rank for hits, rank in enumerate(ranks, 1)]
        before = [(hits - 1) / (rank - 1) if rank > 1 else 1.0 for hits, rank in enumerate(ranks, 1)]
        precisions.append(np.mean(at))
        trapezoids.append(np.mean([(b + a) / 2 for b, a in zip(before, at, strict=True)]))
        firsts.append(ranks[0])
        penalties.append(len(ranks) / ranks[-1])
    return precisions, trapezoids, firsts, penalties


@settings(max_examples=150, deadline=None)
@given(sets())
def test_counting_equals_sorting(case):
    scores = score_retrieval(*case)
    precisions, trapezoids, firsts, penalties = by_sorting(*case)
    np.testing.assert_allclose(scores.average_precision, precisions, atol=1e-12)
    np.testing.assert_allclose(scores.average_precision_trapezoid, trapezoids, atol=1e-12)
    np.testing.assert_allclose(scores.inverse_penalty, penalties, atol=1e-12)
    assert scores.first_hit.tolist() == firsts


@settings(max_examples=100, deadline=None)
@given(sets(), st.randoms(use_true_random=False))
def test_gallery_order_and_names_never_matter(case, random):
    query, query_labels, gallery, gallery_labels = case
    base = score_retrieval(*case)
    order = random.sample(range(len(gallery)), len(gallery))
    names = np.array(["zoe", "ann", "ben", "eva", "max"])
    same(base, score_retrieval(query, query_labels, gallery[order], gallery_labels[order]))
    same(base, score_retrieval(query, names[query_labels], gallery, names[gallery_labels]))


@settings(max_examples=100, deadline=None)
@given(sets(), st.floats(1e-3, 1e3))
def test_scale_never_matters(case, scale):
    query, query_labels, gallery, gallery_labels = (part.astype(float) if part.ndim == 2 else part for part in case)
    factors = np.geomspace(1, scale, len(gallery))[:, None]
    same(score_retrieval(*case), score_retrieval(query * scale, query_labels, gallery * factors, gallery_labels))


@settings(max_examples=100, deadline=None)
@given(sets(), arrays.arrays(np.float32, 4, elements=VALUES))
def test_a_distractor_never_raises_a_score(case, stranger):
    query, query_labels, gallery, gallery_labels = case
    base = score_retrieval(*case)
    more = score_retrieval(
        query, query_labels, np.vstack([gallery, stranger[: query.shape[1]]]), np.append(gallery_labels, 99)
    )
    found = ~np.isnan(base.average_precision)
    assert (more.average_precision[found] <= base.average_precision[found] + 1e-12).all()
    assert (more.average_precision_trapezoid[found] <= base.average_precision_trapezoid[found] + 1e-12).all()
    assert (more.inverse_penalty[found] <= base.inverse_penalty[found] + 1e-12).all()
    assert (more.cmc[: len(base.cmc)] <= base.cmc + 1e-12).all()


def test_chance_and_perfection():
    random = np.random.default_rng(0)
    ids = np.arange(200)
    scores = score_retrieval(random.normal(size=(4000, 8)), np.tile(ids, 20), random.normal(size=(200, 8)), ids)
    assert scores.at[1] == pytest.approx(1 / 200, abs=0.004)  # three standard errors of 4,000 tries
    assert scores.cmc[99] == pytest.approx(0.5, abs=0.025)
    assert scores.map == pytest.approx((1 / np.arange(1, 201)).mean(), abs=0.01)  # every rank equally likely
    perfect = np.eye(50)
    scores = score_retrieval(perfect, np.arange(50), perfect, np.arange(50))
    assert scores.map == scores.map_trapezoid == scores.minp == scores.at[1] == 1


@pytest.mark.parametrize(("queries", "gallery", "width"), [(1, 50, 512), (7, 71, 768), (300, 1003, 192), (2, 4099, 8)])
def test_a_constant_feature_is_the_worst_at_any_size(queries, gallery, width):
    """A float32 product of equal features differs in its last digits from column to column at these sizes."""
    feature = np.random.default_rng(1).normal(size=(1, width)).astype(np.float32)
    ids = np.arange(gallery)
    scores = score_retrieval(feature.repeat(queries, 0), ids[:queries], feature.repeat(gallery, 0), ids)
    assert scores.first_hit.tolist() == [gallery] * queries


EDGES = [1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 63, 65, 255, 257, 2047, 2048, 2049, 4097]  # of kernels and of blocks


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.sampled_from(EDGES), st.sampled_from([1, 3, 63, 65]), st.integers(0, 2**32 - 1))
def test_equal_features_get_equal_scores_wherever_they_stand(width, size, queries, seed):
    random = np.random.default_rng(seed)
    distinct = random.normal(size=(-(-size // 3), width)).astype(np.float32)
    twin = random.integers(0, len(distinct), size)  # (G,) which of the distinct features each image holds
    query = random.normal(size=(queries, width)).astype(np.float32)
    similarity = cosine_similarity(query, distinct[twin])
    np.testing.assert_array_equal(similarity, cosine_similarity(query, distinct)[:, twin])
    np.testing.assert_array_equal(similarity[:, -1:], cosine_similarity(query, distinct[twin[-1:]]))
    ids = random.integers(0, 5, queries), random.integers(0, 5, size)
    ids[1][0] = ids[0][0]
    same(score_similarity(similarity, *ids), score_retrieval(query, ids[0], distinct[twin], ids[1]), atol=0)


@pytest.mark.parametrize("width", [1, 3, 100, 512, 1280])
@pytest.mark.parametrize("kind", ["normal", "ones", "one"])
def test_the_product_is_exact_whatever_its_order(width, kind):
    """Python's whole numbers know no rounding; a feature that is all in one number has the largest products."""
    from clipreid_lib.scores.similarity import FINE, STEPS, multiply_exactly, scale_to_whole

    random = np.random.default_rng(width)
    features = {"normal": random.normal(size=(9, width)), "ones": np.ones((9, width)), "one": np.eye(9, width)}[kind]
    whole = scale_to_whole(features)
    numbers = [[int(value) for value in row] for row in whole.tolist()]
    assert whole.tolist() == numbers
    exact = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in numbers] for one in numbers]
    assert (whole @ whole.T).tolist() == exact and max(map(max, exact)) < 2**53
    expected = [[min(round(value * STEPS / FINE**2), STEPS) for value in row] for row in exact]
    assert multiply_exactly(whole, whole).tolist() == expected


@pytest.mark.parametrize("kind", ["normal", "ones"])
def test_similarity_is_the_cosine_to_the_error_that_is_documented(kind):
    random = np.random.default_rng(4)
    query, gallery = random.normal(size=(30, 512)), random.normal(size=(40, 512))
    if kind == "ones":  # all numbers are rounded the same way
        query, gallery = query > 0.5, gallery > 0
    lengths = [np.linalg.norm(side, axis=1) for side in (query * 1.0, gallery * 1.0)]
    error = np.abs(cosine_similarity(query, gallery) - (query * 1.0) @ (gallery * 1.0).T / np.outer(*lengths))
    assert error.max() < {"normal": 2**-25 + 5e-8, "ones": 2**-25 + 512**0.5 * 2**-26}[kind]


def test_blocks_and_threads_change_nothing(monkeypatch):
    random = np.random.default_rng(2)
    ids = random.integers(0, 30, 700), random.integers(0, 31, 900)  # about 29 matches each
    query, gallery = random.normal(size=(700, 64)).astype(np.float32), random.normal(size=(900, 64)).astype(np.float32)
    gallery[1::2] = gallery[::2] * 3  # every image twice, at another scale
    base = score_similarity(cosine_similarity(query, gallery), *ids)
    same(base, score_retrieval(query, ids[0], gallery, ids[1]), atol=0)
    for name, value in (("ROWS", 1), ("COLUMNS", 37), ("FEW", 3)):
        monkeypatch.setattr(metrics, name, value)
        same(base, score_retrieval(query, ids[0], gallery, ids[1]), atol=0)
    same(base, score_retrieval(torch.from_numpy(query), torch.from_numpy(ids[0]), gallery, ids[1]), atol=0)
    expected = [
        average_precision_score(ids[1] == i, row)
        for i, row in zip(ids[0][:50], cosine_similarity(query[:50], gallery), strict=True)
    ]
    assert np.mean(expected) == pytest.approx(base.average_precision[:50].mean(), abs=2e-3)  # sklearn shares out ties


def test_memory_stays_bounded_and_threads_are_given_back(monkeypatch):
    from clipreid_lib.scores import similarity

    real, seen, threads = similarity.multiply_exactly, [], torch.get_num_threads()

    def watched(query, gallery):
        seen.append(len(query) * len(gallery))
        return real(query, gallery)

    monkeypatch.setattr(similarity, "multiply_exactly", watched)
    random = np.random.default_rng(5).normal(size=(5000, 3))
    monkeypatch.setattr(metrics, "ROWS", 10)
    score_retrieval(random[:64], np.arange(64), random, np.arange(5000))
    assert max(seen) <= 10 * metrics.COLUMNS and torch.get_num_threads() == threads


def test_cameras_take_out_matches_of_the_same_camera_alone():
    query, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    ids = [7], [7, 8, 7]
    assert score_retrieval(query, ids[0], gallery, ids[1]).average_precision[0] == pytest.approx((1 + 2 / 3) / 2)
    seen = score_retrieval(query, ids[0], gallery, ids[1], ([0], [0, 0, 1]))
    assert seen.first_hit.tolist() == [2]  # the wrong one of camera 0 stays, the right one goes
    with pytest.raises(UserError, match=r"cameras: have the shapes \(1,\) and \(2,\), for 1 query and 3 gallery"):
        score_retrieval(query, ids[0], gallery, ids[1], ([0], [0, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_labels": ["1", "2"]}, "labels: must be all numbers or all text, in query and gallery alike"),
        ({"gallery_labels": np.array([1, "2"], dtype=object)}, "labels: must be all numbers or all text"),
        ({"gallery_labels": [1.0, np.nan]}, "labels: .*none missing"),
        ({"gallery_labels": ["1", None], "query_labels": ["1", "2"]}, "labels: .*none missing"),
        ({"query_labels": [1]}, r"labels: have the shapes \(1,\) and \(2,\), for 2 query and 2 gallery images"),
        ({"query": np.zeros((0, 2))}, r"query features: shape \(0, 2\)"),
        ({"gallery": np.zeros((0, 2)), "gallery_labels": []}, r"gallery features: shape \(0, 2\)"),
        ({"gallery": np.array([[1, 2], [np.inf, 1]])}, "gallery features: row 1 holds a value that is not finite"),
        ({"query": np.array([[1, 1e30], [1, 1]])}, "query features: row 0 .*beyond 1e.15"),
        ({"query": [["a", "b"]]}, "query features: are not an array of numbers"),
    ],
)
def test_mistakes_are_named(change, message):
    asked = {"query": np.eye(2), "query_labels": [1, 2], "gallery": np.eye(2), "gallery_labels": [1, 2]} | change
    with pytest.raises(UserError, match=message):
        score_retrieval(**asked)


def test_documented_answers():
    scores = score_retrieval(np.eye(2), [1, 2], np.eye(2), [1, 2])
    assert scores.at == {1: 1.0, 5: 1.0, 10: 1.0}  # more ranks than gallery images
    assert score_retrieval(np.eye(2), [3, 3], np.eye(2), [3, 3]).map == 1  # one identity: nothing to confuse
    zero = score_retrieval(np.zeros((1, 2)), [1], np.eye(2), [1, 2])
    assert zero.first_hit.tolist() == [2]  # a zero vector is alike to nobody, and ties count against it
    ints = score_retrieval(np.eye(2, dtype=int), [1, 2], torch.eye(2, dtype=torch.bfloat16, requires_grad=True), [1, 2])
    assert ints.map == 1
