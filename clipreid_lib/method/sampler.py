"""P x K batches: P identities, K images each, as a pure function of (identities, epoch, seed).

Hermans et al. 2017 (arXiv 1703.07737) draw batches so for the triplet loss: an anchor finds other images of its
identity in its batch, and images of other identities.
"""

import numpy as np
import torch

from clipreid_lib.base.seeding import stable_seed


def identity_batches(
    identities: np.ndarray, per_batch: int, per_identity: int, epoch: int, seed: int
) -> list[torch.Tensor]:
    """Cut one epoch into batches of ``per_batch // per_identity`` identities with up to K images each.

    Each identity's images are shuffled and cut into groups of K; a last group of at least two is kept, a single
    left-over image too unless its identity has other groups. Groups are dealt so that no batch holds two groups
    of one identity; an image therefore never meets itself, unlike with sampling that fills up by repetition.
    Every epoch uses every image of every identity, but for such left-overs.

    Args:
        identities: (N,) identity of each training image.
        per_batch: images per batch at most.
        per_identity: K.
        epoch: counted from 0.
        seed: of the run.

    Returns:
        Index tensors into ``identities``, each of at most ``per_batch`` entries and at least two identities
        (one only where the whole set has one).
    """
    random = np.random.RandomState(stable_seed("sampler", seed, epoch))  # its stream is frozen across versions
    groups: list[np.ndarray] = []
    for identity in np.unique(identities):
        images = random.permutation(np.flatnonzero(identities == identity))
        cuts = [images[i : i + per_identity] for i in range(0, len(images), per_identity)]
        if len(cuts) > 1 and len(cuts[-1]) == 1:
            cuts.pop()
        groups.extend(cuts)
    width = max(2, per_batch // per_identity)  # P
    # Deal identities with the most groups first, each group to the emptiest batch that lacks its identity.
    owner = np.array([identities[group[0]] for group in groups])
    most = int(max(np.unique(owner, return_counts=True)[1]))
    count = max(most, -(-len(groups) // width))
    batches: list[list[np.ndarray]] = [[] for _ in range(count)]
    people, sizes = np.unique(owner, return_counts=True)
    for index in np.lexsort((random.permutation(len(people)), -sizes)):
        mine = np.flatnonzero(owner == people[index])
        emptiest = np.lexsort((random.permutation(count), np.array([len(batch) for batch in batches])))
        for place, group in zip(emptiest, mine, strict=False):
            batches[place].append(groups[group])
    whole = [batch for batch in batches if len(batch) >= 2] or batches[:1]
    order = random.permutation(len(whole))
    return [torch.from_numpy(np.concatenate(whole[i])) for i in order]
