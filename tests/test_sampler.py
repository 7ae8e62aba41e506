import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipreid_lib.method.sampler import identity_batches, published_batches

# The shape of the real training data: a few people with one image, some with forty.
IDENTITIES = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 8, 9, 20, 40])


def people_in(batches, identities):
    return [len(set(identities[batch.numpy()])) for batch in batches]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 12), st.integers(1, 200)), min_size=1, max_size=30),
    st.integers(2, 6),
    st.integers(2, 16),
    st.integers(0, 3),
)
def test_every_image_is_used_and_every_batch_holds_several_people(sizes, each, wide, epoch):
    identities = np.repeat(np.arange(len(sizes)), sizes)
    batches = identity_batches(identities, wide * each, each, epoch, 0)
    used = set(torch.cat(batches).tolist())
    for person, size in enumerate(sizes):
        seen = int((identities[list(used)] == person).sum())
        assert seen == size - (size > each and size % each == 1)  # the single image that could have no positive
    for batch in batches:
        assert len(batch) == len(set(batch.tolist())) <= wide * each  # no image meets itself
        assert len(set(identities[batch.numpy()])) >= min(2, len(sizes))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=60), st.integers(2, 16))
def test_batches_of_whole_groups_have_as_many_people(groups, wide):
    identities = np.repeat(np.arange(len(groups)), [4 * count for count in groups])
    counts = people_in(identity_batches(identities, 4 * wide, 4, 0, 0), identities)
    if max(groups) <= -(-sum(groups) // wide):  # nobody needs two places in a batch
        assert len(counts) == -(-sum(groups) // wide) and max(counts) - min(counts) <= 1


def test_one_person_with_many_images_costs_nobody_their_place():
    identities = np.repeat(np.arange(6), [200, 8, 8, 8, 8, 8])
    used = torch.cat(identity_batches(identities, 64, 4, 0, 0))
    assert len(set(used.tolist())) >= 0.95 * 240
    identities = np.repeat(np.arange(40), [8] * 39 + [160])
    batches = identity_batches(identities, 64, 4, 0, 0)
    assert np.median(people_in(batches, identities)) >= 10 and np.mean([len(b) for b in batches]) >= 56


def test_a_second_person_is_used_again_where_one_has_nearly_all_images():
    identities = np.repeat(np.arange(2), [160, 1])
    batches = identity_batches(identities, 16, 4, 0, 0)
    assert people_in(batches, identities) == [2] * len(batches) and max(map(len, batches)) <= 16


def test_almost_every_image_is_seen_in_an_epoch_on_balanced_people():
    identities = np.repeat(np.arange(50), 9)
    used = torch.cat(identity_batches(identities, 64, 4, 0, 0))
    assert len(used) == 400  # two groups of four each; the ninth image waits for another epoch's shuffle
    seen = set()
    for epoch in range(12):
        seen |= set(torch.cat(identity_batches(identities, 64, 4, epoch, 0)).tolist())
    assert len(seen) == 450


@pytest.mark.parametrize("sample", [identity_batches, published_batches])
def test_it_is_a_function_of_epoch_and_seed(sample):
    def flat(epoch, seed):
        return torch.cat(sample(IDENTITIES, 16, 4, epoch, seed)).tolist()

    assert flat(0, 0) == flat(0, 0) != flat(1, 0)
    assert flat(0, 0) != flat(0, 1)


def test_one_person_alone_still_gives_batches():
    assert [len(b) for b in identity_batches(np.zeros(3, dtype=int), 8, 4, 0, 0)] == [3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(2, 6))
def test_the_published_sampler_fills_up_and_stops_early(sizes, wide):
    identities = np.repeat(np.arange(len(sizes)), sizes)
    batches = published_batches(identities, wide * 4, 4, 0, 0)
    taken = dict.fromkeys(range(len(sizes)), 0)
    for batch in batches:
        people, counts = np.unique(identities[batch.numpy()], return_counts=True)
        assert len(people) == wide and set(counts) == {4}
        for person in people:
            taken[person] += 1
    groups = [max(1, size // 4) for size in sizes]
    assert all(taken[person] <= groups[person] for person in taken)
    assert sum(taken[person] < groups[person] for person in taken) < wide  # it ends when fewer than P are left
