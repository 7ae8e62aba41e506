"""Sentences about hands: what a HandInfo row lets us say, and which words that takes.

A caption is a sentence together with the facts it states. Keeping the facts beside the sentence lets the
pretraining know of *every* picture of a batch whether the sentence holds, not only of the one it was
written for ("a left hand" is true of half of them), and lets a mirrored picture get a mirrored caption.
"""

import gzip
from pathlib import Path

import numpy as np

from clipreid_lib.base import import_fixes  # noqa: F401  import torchvision with its repair, before open_clip does

from open_clip.tokenizer import SimpleTokenizer  # isort: skip

FACTS = {  # what may be stated -> its values; a picture's facts are indices into these, -1 = cannot be seen
    "view": ("dorsal", "palmar"),
    "side": ("right", "left"),
    "thumb": ("left", "right"),  # where the thumb points in the picture
    "skin": ("very fair", "fair", "medium", "dark"),
    "polish": ("no", "yes"),  # nails can be judged on the back of the hand only
    "ring": ("no", "yes"),
    "gender": ("male", "female"),
}
NAMES = tuple(FACTS)
VIEW, SIDE, THUMB, SKIN, POLISH, RING, GENDER = range(len(NAMES))

OPENINGS = ("a photo of ", "a photo of ", "a picture of ", "an image of ", "a photograph of ", "this is ", "")
VIEW_PHRASES = {
    "dorsal": ("the back of", "the back of", "a dorsal view of"),
    "palmar": ("the palm of", "a palmar view of"),
}
TAIL_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "thumb": {
        "left": ("the thumb pointing left", "the thumb on the left"),
        "right": ("the thumb pointing right", "the thumb on the right"),
    },
    "skin": {value: (f"{value} skin",) for value in FACTS["skin"]},
    "polish": {"no": ("bare nails", "no nail polish", "unpainted nails"), "yes": ("painted nails", "nail polish")},
    "ring": {"no": ("no ring", "no rings"), "yes": ("a ring", "a ring on a finger")},
}
# Chance that a caption states the fact. The view and the thumb are easy to see, the side follows from the
# two; naming them separately and often is what lets a small transformer find the side at all.
ALONE = 0.35  # chance of a caption that states one fact only, any of the seven: short ones teach words fast
STATED = {"view": 0.7, "side": 0.7, "thumb": 0.4, "skin": 0.55, "polish": 0.5, "ring": 0.45, "gender": 0.1}

PROMPTS: dict[str, dict[str, tuple[str, ...]]] = {  # fact -> value -> the sentences a zero-shot class is averaged over
    "view": {"dorsal": ("a photo of the back of a hand",), "palmar": ("a photo of the palm of a hand",)},
    "side": {"right": ("a photo of a right hand",), "left": ("a photo of a left hand",)},
    "thumb": {v: (f"a photo of a hand with the thumb pointing {v}",) for v in FACTS["thumb"]},
    "skin": {v: (f"a photo of a hand with {v} skin", f"a hand with {v} skin") for v in FACTS["skin"]},
    "polish": {
        v: tuple(f"a photo of the back of a hand with {nails}" for nails in TAIL_PHRASES["polish"][v][:2])
        for v in FACTS["polish"]
    },
    "ring": {"no": ("a photo of a hand with no ring",), "yes": ("a photo of a hand with a ring",)},
    "gender": {"male": ("a photo of the hand of a man",), "female": ("a photo of the hand of a woman",)},
}
ASPECT_PROMPTS: dict[str, tuple[str, ...]] = {
    f"{view} {side}": (f"a photo of the {word} of a {side} hand",)
    for view, word in (("dorsal", "back"), ("palmar", "palm"))
    for side in FACTS["side"]
}
# Words no caption holds but users will type; their tokens come out whole, though untrained.
EXTRA_WORDS = """x person people human body part fingers finger nail nails wrist thumb index middle little
knuckle knuckles vein veins line lines mole freckle long short wide narrow slim large small old young adult
child light brown black white pale tanned pink red blue green gold silver jewelry bracelet watch sleeve scar
tattoo woman man women men female male dorsal palmar open closed background wearing without and or not is on
in at the""".split()


def read_facts(row: dict) -> np.ndarray:
    """Read the facts of one HandInfo row: (7,) int64 indices into ``FACTS``, -1 where the picture cannot show it."""
    view, side = row["aspectOfHand"].split()
    # seen from the back, a right hand with fingers up has its thumb on the left of the picture
    thumb = "left" if (view == "dorsal") == (side == "right") else "right"
    seen = {"view": view, "side": side, "thumb": thumb, "skin": row["skinColor"], "gender": row["gender"]}
    facts = {name: FACTS[name].index(value) for name, value in seen.items()}
    facts |= {"polish": row["nailPolish"] if view == "dorsal" else -1, "ring": row["accessories"]}
    return np.array([facts[name] for name in NAMES])


def mirror(facts: np.ndarray) -> np.ndarray:
    """Give the (..., 7) facts of the horizontally flipped picture: the other hand, its thumb the other way."""
    facts = np.array(facts)
    facts[..., [SIDE, THUMB]] = 1 - facts[..., [SIDE, THUMB]]
    return facts


def choose_facts(facts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose which of a picture's (7,) facts a sentence states: (7,) with -1 for what it leaves out."""
    stated = np.full(len(NAMES), -1, dtype=np.int64)
    if rng.random() < ALONE:
        only = rng.choice(np.flatnonzero(facts >= 0))
        stated[only] = facts[only]
    while (stated < 0).all():
        keep = np.array([rng.random() < STATED[name] for name in NAMES]) & (facts >= 0)
        stated = np.where(keep, facts, -1)
    return stated


def alter(stated: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change one of the (7,) facts that a sentence states to another value, which makes it false."""
    altered = stated.copy()
    one = rng.choice(np.flatnonzero(stated >= 0))
    others = [value for value in range(len(FACTS[NAMES[one]])) if value != stated[one]]
    altered[one] = rng.choice(others)
    return altered


def write_sentence(stated: np.ndarray, rng: np.random.Generator) -> str:
    """Put (7,) stated facts into words of random choice and order; the same ``rng`` state, the same wording."""
    said = {name: FACTS[name][stated[i]] for i, name in enumerate(NAMES) if stated[i] >= 0}
    side, view = said.get("side", ""), said.get("view")
    hand = f"{side} hand".strip()
    owner = {"male": "man", "female": "woman", None: None}[said.get("gender")]
    phrase, form = rng.random(2)
    if view and form < 0.2:  # the data set's own labels, "dorsal right"
        subject = f"a {view} {hand}"
    elif view:
        phrase = VIEW_PHRASES[view][int(phrase * len(VIEW_PHRASES[view]))]
        subject = f"{phrase} a {owner}'s {hand}" if owner and form < 0.6 else f"{phrase} a {hand}"
    else:
        subject = f"a {hand}"
    if owner and "'s" not in subject:
        subject += f" of a {owner}"
    phrases = {name: TAIL_PHRASES[name][said[name]] for name in TAIL_PHRASES if name in said}
    tail = [options[int(rng.random() * len(options))] for options in phrases.values()]
    tail = [tail[i] for i in rng.permutation(len(tail))]
    if tail:
        last = tail.pop()
        subject += " with " + (", ".join(tail) + " and " + last if tail else last)
    return OPENINGS[rng.integers(len(OPENINGS))] + subject + ("." if rng.random() < 0.3 else "")


def write_captions(facts: np.ndarray, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Write two sentences for each picture: a true one, and the same with one fact altered.

    A word such as "left" is lost among twenty others until the features are made to differ by it. A true sentence and
    its twin differ by nothing else.

    Returns:
        For (S, 7) facts 2 S sentences, and the (2 S, 7) facts that they state (-1 = not mentioned).
    """
    sentences, stated = [], []
    for picture in facts:
        chosen, wording = choose_facts(picture, rng), int(rng.integers(2**63))
        for said in (chosen, alter(chosen, rng)):
            sentences.append(write_sentence(said, np.random.default_rng(wording)))
            stated.append(said)
    return sentences, np.stack(stated)


def check_truth(facts: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """Check which sentences are true of which pictures: (B, 7) and (C, 7) facts -> (B, C) bool."""
    return ((stated[None] < 0) | (stated[None] == facts[:, None])).all(-1)


def collect_words() -> list[str]:
    """Collect every word a caption or a prompt can hold, and ``EXTRA_WORDS``; sorted, lower case."""
    texts = [*OPENINGS, *EXTRA_WORDS, "hand", "a man's hand of a woman's hand with and"]
    texts += [p for phrases in VIEW_PHRASES.values() for p in phrases]
    texts += [p for values in TAIL_PHRASES.values() for phrases in values.values() for p in phrases]
    texts += [p for values in [*PROMPTS.values(), ASPECT_PROMPTS] for phrases in values.values() for p in phrases]
    return sorted({word for text in texts for word in text.replace("'s", " 's").split()})


def write_merges(path: Path) -> int:
    """Write the part of CLIP's BPE merge table that our words need, and return the vocabulary size.

    The merges keep their order, so our words become the same tokens as with the full table. Other words fall apart
    into shorter pieces, at worst bytes. The vocabulary (512 byte tokens + merges + start and end) still ends with the
    end-of-text token, as CLIP's arg-max pooling needs. The full table would cost 49,408 embedding rows.
    """
    words = "".join(f" {' '.join(word)}</w> \n" for word in collect_words())
    merges = []
    for first, second in SimpleTokenizer().bpe_ranks:  # in order: a merge only joins what earlier ones have made
        if (pair := f" {first} {second} ") in words:
            merges.append(pair.strip())
        while pair in words:
            words = words.replace(pair, f" {first}{second} ")
    text = "\n".join(["#version: 0.2", *merges])  # a last newline would add ""
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return 512 + len(merges) + 2
