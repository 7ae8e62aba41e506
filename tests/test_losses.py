import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers

from clipreid_lib.method.contrastive_loss import info_nce, supervised_contrastive
from clipreid_lib.method.triplet_loss import batch_hard_triplet


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(12, 8), torch.randn(12, 8), torch.randint(0, 4, (12,))


def test_supervised_contrastive_agrees_with_pytorch_metric_learning(batch):
    image, text, ids = batch
    oracle = losses.SupConLoss(
        temperature=1.0,
        distance=distances.DotProductSimilarity(normalize_embeddings=False),
        reducer=reducers.MeanReducer(),
    )
    # ids.clone(): handed the very same tensor, the oracle would drop the diagonal, every true pair
    expected = oracle(image, ids, ref_emb=text, ref_labels=ids.clone())
    assert supervised_contrastive(image, text, ids, ids).item() == pytest.approx(expected.item(), rel=1e-6)


def test_supervised_contrastive_by_hand():
    anchors, contrasts = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    # anchor 0 (id 7): dots 2, 0, 1 and positives 0 and 2; anchor 1 (id 9): dots 0, 1, 0 and positive 1
    z0, z1 = math.exp(2) + 1 + math.e, 1 + math.e + 1
    by_hand = -(((2 - math.log(z0)) + (1 - math.log(z0))) / 2 + (1 - math.log(z1))) / 2
    found = supervised_contrastive(anchors, contrasts, torch.tensor([7, 9]), torch.tensor([7, 9, 7]))
    assert found.item() == pytest.approx(by_hand, rel=1e-6)


def test_supervised_contrastive_at_its_edges():
    one = torch.randn(1, 4, requires_grad=True)
    loss = supervised_contrastive(one, one.detach(), torch.tensor([1]), torch.tensor([1]))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(one.grad).all()  # one pair: nothing to tell apart
    stranger = supervised_contrastive(one, torch.randn(3, 4), torch.tensor([1]), torch.tensor([2, 3, 4]))
    assert stranger.item() == 0
    with pytest.raises(ValueError, match="share a width"):
        supervised_contrastive(torch.randn(2, 3), torch.randn(2, 4), torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="one label per row"):
        supervised_contrastive(torch.randn(2, 3), torch.randn(2, 3), torch.zeros(3), torch.zeros(2))


def test_batch_hard_triplet_agrees_with_pytorch_metric_learning(batch):
    features, _, ids = batch
    plain = distances.LpDistance(normalize_embeddings=False)
    oracle = losses.TripletMarginLoss(margin=0.3, distance=plain, reducer=reducers.MeanReducer())
    expected = oracle(features, ids, miners.BatchHardMiner(distance=plain)(features, ids))
    assert batch_hard_triplet(features, ids, 0.3).item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_image_is_never_its_own_positive_and_nothing_turns_nan():
    features = torch.tensor([[0.0], [0.0], [5.0]], requires_grad=True)
    loss = batch_hard_triplet(features, torch.tensor([1, 1, 2]), 0.3)  # two equal positives, one lone negative
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(features.grad).all()
    alone = batch_hard_triplet(torch.randn(3, 4), torch.tensor([1, 2, 3]), 0.3)
    assert alone.item() == 0


def test_info_nce_agrees_with_pytorch_metric_learning_where_nobody_stands_twice(batch):
    image, text, _ = batch
    ids = torch.arange(12)
    oracle = losses.NTXentLoss(
        temperature=1.0,
        distance=distances.DotProductSimilarity(normalize_embeddings=False),
        reducer=reducers.MeanReducer(),
    )
    expected = oracle(image, ids, ref_emb=text, ref_labels=ids.clone())
    assert info_nce(image, text, ids).item() == pytest.approx(expected.item(), rel=1e-5)


def test_info_nce_leaves_other_pairs_of_the_same_identity_out():
    anchors, contrasts = torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([[1.0], [3.0], [0.0]])
    # anchor 0 (id 7): own 1, other identity 0; anchor 1 (id 7): own 6, 0; anchor 2 (id 9): own 0, others 1 and 3
    by_hand = (-(1 - math.log(math.e + 1)) - (6 - math.log(math.exp(6) + 1)) + math.log(1 + math.e + math.exp(3))) / 3
    assert info_nce(anchors, contrasts, torch.tensor([7, 7, 9])).item() == pytest.approx(by_hand, rel=1e-6)
    alone = torch.randn(1, 3, requires_grad=True)
    loss = info_nce(alone, torch.randn(1, 3), torch.tensor([1]))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(alone.grad).all()
