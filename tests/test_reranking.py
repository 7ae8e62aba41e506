import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores.reranking import expand_queries, rerank


def by_definition(query, gallery, k1, k2, lambda_value):
    """Zhong et al. 2017, sections 3.2 to 3.5, with loops and sets."""
    images = np.vstack([query, gallery]).astype(float)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    count = len(images)
    distance = np.array([[((a - b) ** 2).sum() for b in images] for a in images])
    distance = np.array([row / row.max() for row in distance])
    order = [sorted(range(count), key=lambda j, row=row: (row[j], j)) for row in distance]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encoded = np.zeros((count, count))
    for i in range(count):
        members = set(reciprocal(i, k1))
        for candidate in reciprocal(i, k1):
            theirs = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(theirs & reciprocal(i, k1)) > 2 / 3 * len(theirs):
                members |= theirs
        for j in members:
            encoded[i, j] = np.exp(-distance[i, j])
        encoded[i] /= encoded[i].sum()
    if k2 > 1:
        encoded = np.array([np.mean([encoded[j] for j in order[i][:k2]], axis=0) for i in range(count)])
    result = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            shared = sum(min(a, b) for a, b in zip(encoded[q], encoded[len(query) + g], strict=True))
            jaccard = 1 - shared / (2 - shared)
            result[q, g] = (1 - lambda_value) * jaccard + lambda_value * distance[q, len(query) + g]
    return result


def clustered(queries, gallery, width=16, people=8, noise=0.7, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, width))
    ids = random.integers(0, people, queries + gallery)
    features = centres[ids] + noise * random.normal(size=(len(ids), width))
    return features[:queries], features[queries:], ids[:queries], ids[queries:]


@pytest.mark.parametrize(
    ("queries", "gallery", "k1", "k2", "lambda_value"),
    [
        (30, 50, 20, 6, 0.3),
        (20, 40, 7, 3, 0.3),  # odd k1: half of it is rounded to even
        (20, 40, 5, 1, 0.5),  # k2 1: no expansion
        (20, 40, 12, 6, 0.0),
        (20, 40, 12, 6, 1.0),
        (5, 9, 20, 6, 0.3),  # k1 beyond the number of images
        (1, 2, 20, 6, 0.3),
        (25, 30, 3, 8, 0.3),  # k2 beyond k1
    ],
)
def test_k_reciprocal_equals_the_definition(queries, gallery, k1, k2, lambda_value):
    for noise, seed in ((0.5, 1), (3.0, 2)):
        query, shown, *_ = clustered(queries, gallery, noise=noise, seed=seed)
        found = rerank(query, shown, k1, k2, lambda_value)
        np.testing.assert_allclose(found, by_definition(query, shown, k1, k2, lambda_value), atol=1e-5)
        assert found.shape == (queries, gallery) and found.dtype == np.float32


@pytest.mark.parametrize("copies", [2, 5, 30])  # 30: more of them than k1 + 1
def test_copies_of_an_image_rank_by_position(copies):
    query, gallery, *_ = clustered(15, 30, seed=4)
    images = np.repeat(np.vstack([query, gallery]), copies, axis=0)
    images = images[np.random.default_rng(4).permutation(len(images))[:90]]
    found = rerank(images[:30], images[30:])
    np.testing.assert_allclose(found, by_definition(images[:30], images[30:], 20, 6, 0.3), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_order_and_scale_never_matter(seed, scale):
    query, gallery, *_ = clustered(12, 25, seed=seed)
    order = np.random.default_rng(seed).permutation(len(gallery))
    base = rerank(query, gallery, 6, 3)
    np.testing.assert_allclose(rerank(query * scale, gallery[order], 6, 3), base[:, order], atol=1e-5)
    expanded = expand_queries(query, gallery)
    np.testing.assert_allclose(expand_queries(query * scale, gallery[order]), expanded, atol=1e-5)


def test_it_helps_where_people_have_many_images():
    query, gallery, asked, shown = clustered(60, 120, noise=1.3, people=10, seed=3)
    plain = (
        2
        - 2
        * (query / np.linalg.norm(query, axis=1, keepdims=True))
        @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T
    )
    right = [(shown[d.argsort(axis=1)[:, :10]] == asked[:, None]).mean() for d in (plain, rerank(query, gallery))]
    assert right[1] > right[0]


def test_tensors_and_equal_images():
    query, gallery, *_ = clustered(6, 10)
    as_tensors = rerank(torch.from_numpy(query), torch.from_numpy(gallery))
    np.testing.assert_allclose(as_tensors, rerank(query, gallery), atol=1e-6)
    assert np.isfinite(rerank(np.ones((3, 4)), np.ones((5, 4)))).all()


def test_query_expansion_by_hand():
    # cosines 0.8 and 0.6; with top 1 and alpha 1 the query becomes (1, 0) + 0.8 (0.8, 0.6)
    found = expand_queries([[2.0, 0.0]], [[0.8, 0.6], [0.6, 0.8]], top=1, alpha=1)
    expected = np.array([1.64, 0.48]) / np.hypot(1.64, 0.48)
    np.testing.assert_allclose(found, [expected], atol=1e-6)
    away = expand_queries([[1.0, 0.0]], [[-1.0, 0.0], [-0.6, 0.8]], top=2)
    np.testing.assert_allclose(away, [[1, 0]], atol=1e-6)  # negative cosines add nothing
    tied = expand_queries([[1.0, 0.0]], [[0.6, 0.8], [0.6, -0.8]], top=1, alpha=0)
    np.testing.assert_allclose(tied, [[1, 0]], atol=1e-6)  # both of the tie, whichever stands first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": np.ones((2, 3))}, "query features have width 2, gallery features 3"),
        ({"query": np.array([[np.nan, 1]])}, "query features: row 0"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        rerank(**({"query": np.eye(2), "gallery": np.eye(2)} | change))
    with pytest.raises(UserError, match=message):
        expand_queries(**({"query": np.eye(2), "gallery": np.eye(2)} | change))
