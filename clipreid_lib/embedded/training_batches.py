"""Batches of the pretraining: several pictures of each of many hands, and sentences that are true of some of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from clipreid_lib.embedded import captions
from clipreid_lib.embedded.spoiled_pictures import TOGETHER, shrink, spoil
from clipreid_lib.embedded.training_people import SHOTS

SPOILED_AT_FIRST, SPOILED, SPOILED_FROM = (
    0.3,
    0.9,
    2000,
)  # share of hands; steps. Few at first, so that thumbs are found


@dataclass(frozen=True)
class Batch:
    """One step's pictures and sentences."""

    images: torch.Tensor  # (B, 3, S, S) uint8, so that it travels quickly between processes
    hands: torch.Tensor  # (B,) whose hand: the number of person and aspect
    bursts: torch.Tensor  # (B,) a number for each session of each hand
    sentences: list[str]  # C of them
    truth: torch.Tensor  # (B, C) bool: which sentence holds of which picture


def weigh_hands(facts: np.ndarray, rare: float) -> np.ndarray:
    """Give the chance (N,) of each hand to be drawn, by its pictures' facts (N, shots, F): rare values come more often.

    ``rare`` = 0 draws all hands alike, 1 all values of each of skin and polish.
    """
    weights = np.ones(len(facts))
    for fact in (captions.SKIN, captions.POLISH):
        _, value, counts = np.unique(facts[:, 0, fact], return_inverse=True, return_counts=True)
        weights *= (counts**-rare)[value]
    return weights / weights.sum()


class Batches(Dataset):
    """Every step's batch, the same for the same arguments."""

    def __init__(self, pictures: np.ndarray, facts: np.ndarray, hands: int, rare: float, size: int, seed: int) -> None:
        """Draw ``hands`` hands a step, all pictures of each, as squares of ``size`` pixels.

        The pictures are (people, 4, shots, 3, S, S) uint8 and the facts (people, 4, shots, F), as
        :func:`training_people.draw_people` gives them; for ``rare`` see :func:`weigh_hands`.
        """
        self.pictures, self.facts = pictures.reshape(-1, *pictures.shape[2:]), facts.reshape(-1, *facts.shape[2:])
        self.weights, self.aspects = weigh_hands(self.facts, rare), np.arange(len(self.facts)) % 4
        self.hands, self.size, self.seed = min(hands, len(self.facts)), size, seed

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        """Choose half of the hands in one aspect, because hands of two aspects are too easily told apart."""
        alike = self.weights * (self.aspects == rng.integers(4))
        count = min(self.hands // 2, int(np.count_nonzero(alike)))
        some = rng.choice(len(alike), count, replace=False, p=alike / alike.sum())
        others = self.weights.copy()
        others[some] = 0
        rest = rng.choice(len(others), self.hands - count, replace=False, p=others / others.sum())
        return rng.permutation(np.concatenate([some, rest]))

    def __getitem__(self, step: int) -> Batch:
        """Draw the batch of a step. One picture of each hand gets a true and a false sentence."""
        rng = np.random.default_rng([self.seed, step])
        chosen, shots = self._choose(rng), len(SHOTS)
        pictures = torch.from_numpy(self.pictures[chosen]).flatten(0, 1)  # (B, 3, H, W)
        share = min(SPOILED, SPOILED_AT_FIRST + (SPOILED - SPOILED_AT_FIRST) * step / SPOILED_FROM)
        plain, mirrored = rng.random(len(chosen)) > share, rng.random(len(chosen)) < 0.5
        bursts = (
            torch.tensor([session for session, _ in SHOTS]) + shots * torch.arange(len(chosen))[:, None]
        ).flatten()
        studios = bursts.clone()
        studios[:TOGETHER] = 0  # one camera and light for all of these: their colours can be compared
        flips, plainly = (torch.from_numpy(each).repeat_interleave(shots) for each in (mirrored, plain))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        images = spoil(pictures, studios, flips, self.size, generator)
        images[plainly] = shrink(pictures[plainly], flips[plainly], self.size)
        facts = self.facts[chosen]  # (hands, shots, F)
        facts = np.where(mirrored[:, None, None], captions.mirror(facts), facts)
        speakers = facts[np.arange(len(chosen)), rng.integers(shots, size=len(chosen))]
        sentences, stated = captions.write_captions(speakers, rng)
        truth = captions.check_truth(facts.reshape(-1, facts.shape[-1]), stated)
        whose = torch.from_numpy(chosen).repeat_interleave(shots)
        return Batch((images * 255 + 0.5).byte(), whose, bursts, sentences, torch.from_numpy(truth))
