"""P x K batches: P identities, K images each, as a pure function of (identities, epoch, seed).

Hermans et al. 2017 (arXiv 1703.07737) draw batches so for the triplet loss: an anchor finds other images of its
identity in its batch, and images of other identities.

Every sampler takes the identity of each training image (N,); the number of images in a batch, ``per_batch`` (P x K; at
most, in :func:`identity_batches`); K as ``per_identity``; the epoch, counted from 0; and the ``seed`` of the run. It
returns a tensor of rows of the training images for each batch.
"""

import numpy as np
import torch

from clipreid_lib.base.seeding import stable_seed


def identity_batches(
    identities: np.ndarray, per_batch: int, per_identity: int, epoch: int, seed: int
) -> list[torch.Tensor]:
    """Cut one epoch into as few batches as hold its images, of groups of up to K images of one identity.

    Each identity's images are shuffled and cut into groups of K. A single left-over image is dropped for this epoch
    where its identity has other groups: it would have no positive. All other images are used. Groups are dealt to the
    emptiest batches, so that all batches are about equally full. An identity gives a batch a second group only where
    it has more groups than there are batches. Where one identity has nearly all images, groups of the others are used
    again, in other batches, so that every batch holds two identities.

    Returns:
        Batches of at most ``per_batch`` images without repetition, of at least two identities (one only where the
        whole set has one).

    Raises:
        ValueError: a batch cannot hold two groups.
    """
    if per_batch < 2 * per_identity:
        raise ValueError(f"a batch of {per_batch} images cannot hold two groups of {per_identity}")
    random = np.random.RandomState(stable_seed("sampler", seed, epoch))  # its stream is frozen across versions
    groups: list[np.ndarray] = []
    for identity in np.unique(identities):
        images = random.permutation(np.flatnonzero(identities == identity))
        cuts = [images[i : i + per_identity] for i in range(0, len(images), per_identity)]
        if len(cuts) > 1 and len(cuts[-1]) == 1:
            cuts.pop()
        groups.extend(cuts)
    state, count = random.get_state(), -(-sum(map(len, groups)) // per_batch)
    while True:
        batches = _deal(groups, identities, count, random)
        if max(sum(len(group) for group in batch) for batch in batches) <= per_batch:
            return [torch.from_numpy(np.concatenate(batch)) for batch in batches]
        count += 1
        random.set_state(state)


def _deal(
    groups: list[np.ndarray], identities: np.ndarray, count: int, random: np.random.RandomState
) -> list[list[np.ndarray]]:
    """Deal groups to a number of batches: whole groups first, the identities with the most first, then smaller ones."""
    people, owner = np.unique([identities[group[0]] for group in groups], return_inverse=True)
    size = np.array([len(group) for group in groups])
    batches: list[list[int]] = [[] for _ in range(count)]  # of places in groups
    held, known = np.zeros(count, int), np.zeros(count, int)  # images and people in each
    within = np.zeros((len(people), count), bool)  # whether a person is there

    def deal(person: int, dealt: np.ndarray) -> None:
        """Give groups of a person to batches without them, then the emptiest, then those of the fewest people."""
        order = np.lexsort((random.permutation(count), known, held, within[person]))
        for place, group in zip(order, dealt, strict=False):
            batches[place].append(group)
            held[place] += size[group]
            known[place] += not within[person, place]
            within[person, place] = True

    whole = size == size.max()
    wholes = np.split(np.flatnonzero(whole), np.cumsum(np.bincount(owner[whole], minlength=len(people)))[:-1])
    for person in np.lexsort((random.permutation(len(people)), -np.bincount(owner))):
        mine = wholes[person]
        for start in range(0, len(mine), count):
            deal(person, mine[start : start + count])
    small = np.flatnonzero(~whole)
    for group in small[np.lexsort((random.permutation(len(small)), -size[small]))]:
        deal(owner[group], np.array([group]))
    for place in np.flatnonzero(known == 1) if len(people) > 1 else ():
        batches[place].append(random.choice(np.flatnonzero(owner != owner[batches[place][0]])))
    return [[groups[group] for group in batches[place]] for place in random.permutation(count)]


def published_batches(
    identities: np.ndarray, per_batch: int, per_identity: int, epoch: int, seed: int
) -> list[torch.Tensor]:
    """Draw one epoch's batches as CLIP-ReID does (its ``RandomIdentitySampler``): always P identities, K images each.

    Identities with fewer than K images are filled up by repetition, images left over after groups of K are dropped,
    and the epoch ends when fewer than P identities have groups left. A picture may stand twice in a batch. There is no
    batch where there are fewer than P identities.
    """
    random = np.random.RandomState(stable_seed("published sampler", seed, epoch))
    width = per_batch // per_identity  # P
    left: list[list[np.ndarray]] = []
    for identity in np.unique(identities):
        images = np.flatnonzero(identities == identity)
        if len(images) < per_identity:
            images = random.choice(images, per_identity)
        images = random.permutation(images)
        left.append([images[i : i + per_identity] for i in range(0, len(images) - per_identity + 1, per_identity)])
    batches = []
    while len(left) >= width > 0:
        chosen = random.permutation(len(left))[:width]
        batches.append(torch.from_numpy(np.concatenate([left[place].pop(0) for place in chosen])))
        left = [groups for groups in left if groups]
    return batches


def shuffled_batches(
    identities: np.ndarray, per_batch: int, per_identity: int, epoch: int, seed: int
) -> list[torch.Tensor]:
    """Cut one epoch's images, shuffled, into batches as CLIP-HandID does, whoever they show.

    Each batch has ``per_batch`` images, what is left over is dropped, and ``per_identity`` takes no part.
    """
    order = np.random.RandomState(stable_seed("shuffled sampler", seed, epoch)).permutation(len(identities))
    whole = len(order) // per_batch * per_batch
    return list(torch.from_numpy(order[:whole]).split(per_batch)) if whole else []


SAMPLERS = {"every_image": identity_batches, "published": published_batches, "shuffled": shuffled_batches}
