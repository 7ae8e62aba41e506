import numpy as np
import pytest
import torch

from clipreid_lib.method.sampler import identity_batches

# The shape of the real training data: a few people with one image, some with forty.
IDENTITIES = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 8, 9, 20, 40])


@pytest.mark.parametrize("epoch", range(5))
def test_batches_hold_several_people_and_no_image_twice(epoch):
    batches = identity_batches(IDENTITIES, per_batch=16, per_identity=4, epoch=epoch, seed=1)
    used = torch.cat(batches)
    assert len(used) == len(set(used.tolist()))
    for batch in batches:
        people, counts = np.unique(IDENTITIES[batch], return_counts=True)
        assert len(people) >= 2 and counts.max() <= 4 and len(batch) <= 16
    assert set(IDENTITIES[used.numpy()]) == set(range(9))  # nobody is left out


def test_almost_every_image_is_seen_in_an_epoch_on_balanced_people():
    identities = np.repeat(np.arange(50), 9)
    used = torch.cat(identity_batches(identities, 64, 4, 0, 0))
    assert len(used) == 400  # two groups of four each; the ninth image waits for another epoch's shuffle
    seen = set()
    for epoch in range(12):
        seen |= set(torch.cat(identity_batches(identities, 64, 4, epoch, 0)).tolist())
    assert len(seen) == 450


def test_it_is_a_function_of_epoch_and_seed():
    def flat(epoch, seed):
        return torch.cat(identity_batches(IDENTITIES, 16, 4, epoch, seed)).tolist()

    assert flat(0, 0) == flat(0, 0) != flat(1, 0)
    assert flat(0, 0) != flat(0, 1)


def test_one_person_alone_still_gives_batches():
    assert [len(b) for b in identity_batches(np.zeros(3, dtype=int), 8, 4, 0, 0)] == [3]
