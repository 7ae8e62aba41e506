import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.metrics import average_precision_score

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores.metrics import score_retrieval, score_similarity
from clipreid_lib.scores.similarity import cosine_similarity


@pytest.fixture
def sets():
    random = np.random.RandomState(0)
    return random.randn(40, 6), random.randint(0, 8, 40), random.randn(90, 6), random.randint(0, 9, 90)


def test_average_precision_agrees_with_scikit_learn(sets):
    query, query_labels, gallery, gallery_labels = sets
    scores = score_retrieval(*sets)
    similarity = cosine_similarity(query, gallery)
    expected = [
        average_precision_score(gallery_labels == i, row) for i, row in zip(query_labels, similarity, strict=True)
    ]
    np.testing.assert_allclose(scores.average_precision, expected, atol=1e-12)
    assert scores.map == pytest.approx(np.mean(expected))


def test_rank1_and_map_agree_with_pytorch_metric_learning(sets):
    query, query_labels, gallery, gallery_labels = (torch.as_tensor(part) for part in sets)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision"), k=None, knn_func=CustomKNN(CosineSimilarity())
    )
    expected = calculator.get_accuracy(query.float(), query_labels, gallery.float(), gallery_labels)
    scores = score_retrieval(*sets)
    assert scores.at[1] == pytest.approx(expected["precision_at_1"])
    assert scores.map == pytest.approx(expected["mean_average_precision"], abs=1e-6)


def test_by_hand():
    similarity = np.array([[0.9, 0.8, 0.7, 0.1], [0.2, 0.9, 0.5, 0.4]])
    scores = score_similarity(similarity, np.array([1, 2]), np.array([2, 1, 2, 1]))
    # query 0 (person 1): hits at ranks 2 and 4; query 1 (person 2): order 1, 2, 3, 0, so hits at ranks 2 and 4
    assert scores.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2] * 2)
    assert scores.first_hit.tolist() == [2, 2]
    assert scores.cmc.tolist() == [0, 1, 1, 1]
    assert scores.minp == pytest.approx(2 / 4)
    assert scores.at == {1: 0, 5: 1, 10: 1}  # beyond the gallery's end its last value


def test_ties_count_against_the_model_whatever_the_order():
    gallery_labels = np.array([1, 2, 3, 4, 5])
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        scores = score_retrieval(np.ones((5, 3)), gallery_labels, np.ones((5, 3)), gallery_labels[order])
        assert scores.at[1] == 0 and scores.map == pytest.approx(1 / 5)  # a constant feature knows nobody


def test_gallery_order_labels_and_scale_never_matter(sets):
    query, query_labels, gallery, gallery_labels = sets
    base = score_retrieval(*sets)
    order = np.random.RandomState(1).permutation(len(gallery))
    renamed = np.random.RandomState(2).permutation(100)
    for other in (
        (query, query_labels, gallery[order], gallery_labels[order]),
        (query, renamed[query_labels], gallery, renamed[gallery_labels]),
        (query * 5, query_labels, gallery * 0.25, gallery_labels),
    ):
        scores = score_retrieval(*other)
        np.testing.assert_allclose(scores.average_precision, base.average_precision, atol=1e-9)
        np.testing.assert_allclose(scores.cmc, base.cmc)


def test_a_distractor_never_helps_and_a_perfect_embedding_scores_one(sets):
    query, query_labels, gallery, gallery_labels = sets
    base = score_retrieval(*sets)
    more = score_retrieval(
        query, query_labels, np.vstack([gallery, query[:3]]), np.append(gallery_labels, [50, 51, 52])
    )
    assert more.map < base.map and (more.average_precision <= base.average_precision + 1e-12).all()
    perfect = np.eye(9)
    scores = score_retrieval(perfect[query_labels], query_labels, perfect[gallery_labels], gallery_labels)
    assert scores.map == scores.minp == scores.at[1] == 1


def test_queries_without_a_match_are_counted_apart():
    scores = score_retrieval(np.eye(2), [1, 99], np.eye(2), [1, 2])
    assert scores.unmatched == 1 and scores.map == 1 and scores.first_hit.tolist() == [1, 0]
    assert np.isnan(scores.average_precision[1])
    with pytest.raises(UserError, match="no query label is in the gallery"):
        score_retrieval(np.eye(2), [8, 9], np.eye(2), [1, 2])


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        (np.array([[1.0, np.nan]]), np.ones((2, 2)), "query features: row 0 .*not finite"),
        (np.ones((1, 3)), np.ones((2, 2)), "width 3, gallery features 2"),
        (np.ones((0, 2)), np.ones((2, 2)), "query features: shape \\(0, 2\\)"),
    ],
)
def test_bad_features_are_told(query, gallery, message):
    with pytest.raises(UserError, match=message):
        score_retrieval(query, np.zeros(len(query)), gallery, np.zeros(len(gallery)))
    assert cosine_similarity(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [[0.0]]


def test_a_right_angle_is_zero_whatever_float64_makes_of_it():
    query, gallery = np.array([[0.1, 0.2, 0.3]]), np.array([[0.3, 0.0, -0.1], [0.0, 0.0, 0.0], [0.2, -0.1, 0.0]])
    found = cosine_similarity(query, gallery)
    assert found.tolist() == [[0.0, 0.0, 0.0]]
    assert score_retrieval(query, [1], gallery, [1, 2, 3]).map == pytest.approx(1 / 3)  # a tie counts against the model
