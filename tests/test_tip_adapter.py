import math

import torch
from small_runs import finetune, learn

from clipreid_lib.method.tip_adapter import cache_logits
from clipreid_lib.runs import embeddings as run_embeddings
from clipreid_lib.runs import loading
from clipreid_lib.scores import evaluation


def test_votes_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    votes = cache_logits(torch.tensor([[3.0, 0.0]]), keys, torch.tensor([0, 0, 1]), 2, sharpness=2.0)
    near, far = 1.0, math.exp(-2.0)  # cosines 1 and 0
    torch.testing.assert_close(votes, torch.tensor([[(near + far) / 2, far]]))


def test_an_identity_without_training_images_gets_no_votes():
    votes = cache_logits(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([1]), 3)
    torch.testing.assert_close(votes, torch.tensor([[0.0, 1.0, 0.0]]))


def test_the_run_is_scored_by_votes_and_the_closed_set_is_named(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="tip_adapter", validation="published")
    encoder = loading.load_trained_encoder(run)
    embeddings = run_embeddings.embed(run, encoder, run.manifest.test)
    assert list(embeddings) == ["tip_adapter", "image"]
    assert embeddings["tip_adapter"].values.shape[1] == run.manifest.train["identity"].nunique()
    assert 0 <= evaluation.evaluate(embeddings["tip_adapter"], run.manifest).summary()["rank1"] <= 1
    named = run_embeddings.identify(run, encoder)
    assert set(named) == {"nearest image", "tip_adapter"} and all(0 <= share <= 1 for share in named.values())
    everybody = open_run(variant="tip_adapter")
    assert run_embeddings.identify(everybody, encoder) == {}


def test_a_profile_is_shares_over_the_anchors(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="clipid")
    clip, _, _ = learn(run)
    finetune(run, clip)
    embeddings = run_embeddings.embed(run, loading.load_trained_encoder(run), run.manifest.test)
    assert list(embeddings) == ["image", "profile", "stage 0"]
    profile = embeddings["profile"].values
    assert profile.shape == (len(run.manifest.test), run.manifest.train["identity"].nunique())
    torch.testing.assert_close(profile.sum(dim=1), torch.ones(len(profile)))
