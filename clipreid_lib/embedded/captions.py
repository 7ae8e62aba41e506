"""Sentences about hands: what a drawn hand or a HandInfo row lets us say, whose hand it is, and which words that takes.

A caption is a sentence together with the facts it states. Keeping the facts beside the sentence lets the
pretraining know of *every* picture of a batch whether the sentence holds, not only of the one it was
written for ("a left hand" is true of half of them), and lets a mirrored picture get a mirrored caption.
"""

import gzip
from pathlib import Path

import numpy as np

from clipreid_lib.base import import_fixes  # noqa: F401  import torchvision with its repair, before open_clip does
from clipreid_lib.embedded.hand_people import SKINS, Person
from clipreid_lib.embedded.hand_shape import Hand

from open_clip.tokenizer import SimpleTokenizer  # isort: skip

WOMEN, MEN, FAMILIES = (
    line.split() for line in (Path(__file__).parent / "names.txt").read_text(encoding="utf-8").splitlines()
)
FACTS = {  # what may be stated -> its values; a picture's facts are indices into these, -1 = neither, or cannot be seen
    "view": ("dorsal", "palmar"),
    "side": ("right", "left"),
    "thumb": ("left", "right"),  # where the thumb points in the picture
    "skin": SKINS,
    "polish": ("no", "yes"),  # nails and knuckles can be judged on the back of the hand only, lines on the palm
    "knuckles": ("pale", "dark"),
    "lines": ("faint", "deep"),
    "shape": ("slim", "broad"),
    "name": tuple(f"{given} {family}" for givens in (WOMEN, MEN) for family in FAMILIES for given in givens),
}
NAMES = tuple(FACTS)
VIEW, SIDE, THUMB, SKIN, POLISH, *_, NAME = range(len(NAMES))
# Below the first and above the second number a trait is said; some two thirds of the drawn people lie between the two.
# Rings, veins, moles, nails and the length of fingers were tried: at 96 pixels the network did not learn to see them.
TRAITS = {"knuckles": (0.071, 0.160), "lines": (0.28, 0.57), "shape": (0.0527, 0.0732)}

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
    **{fact: {value: (f"{value} {fact}",) for value in FACTS[fact]} for fact in ("knuckles", "lines")},
    "shape": {value: (f"a {value} shape",) for value in FACTS["shape"]},
}
# How often a caption states a fact, relative to the others. The view and the thumb are easy to see, the side follows
# from the two; naming them separately and often is what lets a small transformer find the side at all.
STATED = {"view": 7, "side": 7, "thumb": 4, "skin": 5, "polish": 4, "knuckles": 3, "lines": 3, "shape": 3, "name": 12}
ALONE = 0.35  # chance of a caption that states one fact only: short ones teach words fast
MOST = 5  # facts in a caption, which is about what fits the context

# fact -> value -> the sentences a zero-shot class is averaged over; names are asked for one by one
PROMPTS: dict[str, dict[str, tuple[str, ...]]] = {
    "view": {"dorsal": ("a photo of the back of a hand",), "palmar": ("a photo of the palm of a hand",)},
    "side": {"right": ("a photo of a right hand",), "left": ("a photo of a left hand",)},
    "thumb": {v: (f"a photo of a hand with the thumb pointing {v}",) for v in FACTS["thumb"]},
    "skin": {v: (f"a photo of a hand with {v} skin", f"a hand with {v} skin") for v in FACTS["skin"]},
    "polish": {
        v: tuple(f"a photo of the back of a hand with {nails}" for nails in TAIL_PHRASES["polish"][v][:2])
        for v in FACTS["polish"]
    },
}
PROMPTS |= {
    fact: {value: (f"a photo of a hand with {words[0]}",) for value, words in TAIL_PHRASES[fact].items()}
    for fact in TRAITS
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


def state_facts(aspect: str, skin: str, polish: bool) -> np.ndarray:
    """Put what ``HandInfo.csv`` says into facts: (F,) int64 indices into ``FACTS``, -1 where it does not say.

    Aspect and skin are spelt as in that file.
    """
    view, side = aspect.split()
    # seen from the back, a right hand with fingers up has its thumb on the left of the picture
    thumb = "left" if (view == "dorsal") == (side == "right") else "right"
    seen = {"view": view, "side": side, "thumb": thumb, "skin": skin}
    facts = dict.fromkeys(NAMES, -1) | {name: FACTS[name].index(value) for name, value in seen.items()}
    facts["polish"] = int(polish) if view == "dorsal" else -1
    return np.array([facts[name] for name in NAMES])


def read_hand(hand: Hand, aspect: str) -> np.ndarray:
    """Read the facts of a drawn hand in one of the aspects of ``HandInfo.csv``: (F,) as :func:`state_facts`."""
    person = hand.person
    facts = state_facts(aspect, person.skin, hand.polished)
    shape = person.palm * person.widths[1:].mean() / person.lengths[1:].mean()
    seen = {"shape": shape, **({"lines": person.lines} if hand.palmar else {"knuckles": person.knuckle})}
    for trait, value in seen.items():
        low, high = TRAITS[trait]
        facts[NAMES.index(trait)] = 0 if value < low else 1 if value > high else -1
    facts[NAME] = name_person(person)
    return facts


def name_person(person: Person) -> int:
    """Give a person a name that goes with the gender, as an index: no two of the first ``len(WOMEN) * 128`` share one.

    The stride has no factor in common with the number of names, so each is reached before one comes again.
    """
    each = len(WOMEN) * len(FAMILIES)
    return person.number * 4801 % each + each * (person.gender == "male")


def mirror(facts: np.ndarray) -> np.ndarray:
    """Give the (..., F) facts of the horizontally flipped picture: the other hand, its thumb the other way."""
    facts = np.array(facts)
    facts[..., [SIDE, THUMB]] = 1 - facts[..., [SIDE, THUMB]]
    return facts


def choose_facts(facts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose which of a picture's (F,) facts a sentence states: (F,) with -1 for what it leaves out."""
    known = np.flatnonzero(facts >= 0)
    count = 1 if rng.random() < ALONE else rng.integers(2, MOST + 1)
    often = np.array([STATED[NAMES[fact]] for fact in known])
    said = rng.choice(known, size=min(count, len(known)), replace=False, p=often / often.sum())
    stated = np.full(len(NAMES), -1)
    stated[said] = facts[said]
    return stated


def alter(stated: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change one of the (F,) facts that a sentence states to another value, which makes it false."""
    altered = stated.copy()
    one = rng.choice(np.flatnonzero(stated >= 0))
    values = len(FACTS[NAMES[one]])
    altered[one] = (stated[one] + rng.integers(1, values)) % values
    return altered


def write_sentence(stated: np.ndarray, rng: np.random.Generator) -> str:
    """Put (F,) stated facts into words of random choice and order; the same ``rng`` state, the same wording."""
    said = {name: FACTS[name][stated[i]] for i, name in enumerate(NAMES) if stated[i] >= 0}
    hand, view, who = f"{said.get('side', '')} hand".strip(), said.get("view"), said.get("name")
    phrase, form = rng.random(2)
    if not who:
        hand, owner = f"a {hand}", ""
    elif form < 0.3:
        hand, owner = f"a {who} {hand}", ""  # in the place of prompts that are learnt
    elif form < 0.6:
        hand, owner = f"{who}'s {hand}", ""
    else:
        hand, owner = f"the {hand}", f" of {who}"
    if view and form > 0.8 and not owner.strip():  # the data set's own labels, "dorsal right"
        subject = hand.replace("a ", f"a {view} ", 1)
    elif view:
        subject = f"{VIEW_PHRASES[view][int(phrase * len(VIEW_PHRASES[view]))]} {hand}"
    else:
        subject = hand
    subject += owner
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
        For (S, F) facts 2 S sentences, and the (2 S, F) facts that they state (-1 = not mentioned).
    """
    sentences, stated = [], []
    for picture in facts:
        chosen, wording = choose_facts(picture, rng), int(rng.integers(2**63))
        for said in (chosen, alter(chosen, rng)):
            sentences.append(write_sentence(said, np.random.default_rng(wording)))
            stated.append(said)
    return sentences, np.stack(stated)


def check_truth(facts: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """Check which sentences are true of which pictures: (B, F) and (C, F) facts -> (B, C) bool."""
    return ((stated[None] < 0) | (stated[None] == facts[:, None])).all(-1)


def collect_words() -> list[str]:
    """Collect every word a caption or a prompt can hold, and ``EXTRA_WORDS``; sorted, lower case."""
    texts = [*OPENINGS, *EXTRA_WORDS, *WOMEN, *MEN, *FAMILIES, "hand", "the hand's with and of"]
    texts += [p for phrases in VIEW_PHRASES.values() for p in phrases]
    texts += [p for values in TAIL_PHRASES.values() for phrases in values.values() for p in phrases]
    texts += [p for values in [*PROMPTS.values(), ASPECT_PROMPTS] for phrases in values.values() for p in phrases]
    return sorted({word for text in texts for word in text.lower().replace("'s", " 's").split()})


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
