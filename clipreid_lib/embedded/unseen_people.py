"""Measure the embedded CLIP on people it never saw, drawn or photographed: zero-shot tables and one-shot retrieval."""

import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.data import datasets, eleven_k, protocols
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.embedded import captions
from clipreid_lib.embedded.synthetic_hands import Person, draw
from clipreid_lib.embedded.training_people import draw_people, squash

VALIDATION, TEST = 20261124, 20261125  # seeds of the people watched while training, and of those of the report
PEOPLE = {"watched": 60, "zero-shot": 200, "retrieval": 50, "named": 112}


@torch.no_grad()
def classify(backbone: Backbone, features: torch.Tensor, prompts: dict[str, tuple[str, ...]]) -> np.ndarray:
    """Pick the class nearest to each feature (N, D), a class being its sentences' mean direction: (N,) indices."""
    classes = torch.stack([F.normalize(backbone.encode_texts(list(p)), dim=1).mean(0) for p in prompts.values()]).cpu()
    return (features @ F.normalize(classes, dim=1).T).argmax(1).numpy()


def balance(predicted: np.ndarray, true: np.ndarray) -> float:
    """Average over the classes present in ``true`` (N,) the share recognised: accuracy in [0, 1]."""
    return round(float(np.mean([(predicted[true == value] == value).mean() for value in np.unique(true)])), 4)


def zero_shot(backbone: Backbone, features: torch.Tensor, facts: np.ndarray) -> dict[str, float]:
    """Score the class-balanced zero-shot accuracy of every fact that captions state, where pictures show two values.

    Takes the pictures' features (N, D) in the space of text and their facts (N, F).

    Returns:
        Accuracy in [0, 1] by fact and, in brackets, number of classes.
    """
    features, table = F.normalize(features, dim=1), {}
    true = 2 * facts[:, captions.VIEW] + facts[:, captions.SIDE]  # the order of ASPECT_PROMPTS
    table["aspect (4)"] = balance(classify(backbone, features, captions.ASPECT_PROMPTS), true)
    for name, prompts in captions.PROMPTS.items():
        column = facts[:, captions.NAMES.index(name)]
        if len(np.unique(column[column >= 0])) > 1:
            predicted = classify(backbone, features[column >= 0], prompts)
            table[f"{name} ({len(prompts)})"] = balance(predicted, column[column >= 0])
    return table


def find_names(backbone: Backbone, pictures: np.ndarray, facts: np.ndarray) -> dict[str, float]:
    """Look for the right name of people in training: which of their names goes with a picture.

    The pictures (people, 4, shots, 3, S, S) and facts (people, 4, shots, F) are the training's; the first people count.
    """
    people = min(len(facts), PEOPLE["named"])
    names = [captions.FACTS["name"][name] for name in facts[:people, 0, 0, captions.NAME]]
    seen = encode(backbone, _resize(pictures[:people], backbone.image_size[0])).in_text_space
    prompts: dict[str, tuple[str, ...]] = {name: (f"a photo of the hand of {name}",) for name in names}
    found = classify(backbone, F.normalize(seen, dim=1), prompts).reshape(people, -1)
    return {"people": people, "right name": round(float((found == np.arange(people)[:, None]).mean()), 4)}


def score_one_shot(features: torch.Tensor, ids: np.ndarray) -> float:
    """Score rank-1 in [0, 1]: one random gallery picture per person, all others queries, mean of 10 draws.

    The features (N, D) are compared by cosine; ``ids`` (N,) are the people.
    """
    features, rng, scores = F.normalize(features, dim=1), np.random.default_rng(0), []
    for _ in range(10):
        gallery = np.array([rng.choice(np.flatnonzero(ids == person)) for person in np.unique(ids)])
        queries = np.setdiff1d(np.arange(len(ids)), gallery)
        nearest = (features[queries] @ features[gallery].T).argmax(1).numpy()
        scores.append((ids[gallery][nearest] == ids[queries]).mean())
    return round(float(np.mean(scores)), 4)


def flatten_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Turn pictures (N, 3, H, W) uint8 into a floor for retrieval: 32 x 32 grey pixels without their mean."""
    grey = F.interpolate(pictures.float().mean(1, keepdim=True), size=32, mode="bilinear", antialias=True)
    return (grey - grey.mean(dim=(2, 3), keepdim=True)).flatten(1)


def _resize(pictures: np.ndarray, size: int) -> torch.Tensor:
    """Resize pictures (..., 3, S, S) uint8 to (N, 3, size, size), bicubic."""
    flat = pictures.reshape(-1, *pictures.shape[-3:]).transpose(0, 2, 3, 1)
    return torch.from_numpy(np.stack([squash(each, size) for each in flat])).permute(0, 3, 1, 2)


@lru_cache
def _draw_unseen(people: int, seed: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    with tempfile.TemporaryDirectory() as scratch:
        pictures, facts = draw_people(Path(scratch), people, seed)
        return _resize(pictures[:, :, :1], size), facts[:, :, 0].reshape(-1, facts.shape[-1])


@lru_cache
def _read_photographs(root: Path, role: str, size: int) -> dict[str, tuple[torch.Tensor, np.ndarray, np.ndarray]]:
    """Read the photographs of a role under the published split, by aspect: pictures, facts (N, F), people (N,)."""
    table, read = datasets.load_images("11k", str(root), allow_missing=True), {}
    for words, aspect in eleven_k.ASPECTS.items():
        if aspect not in set(table["aspect"]):
            continue
        images = protocols.build(table, "own", aspect).images
        mine = table.set_index("path").loc[images.loc[images["role"] == role, "path"]].reset_index()
        said = mine[["skin_color", "nail_polish"]].itertuples(index=False)
        pictures = torch.from_numpy(Photographs(root).load(mine, (size, size)))
        read[words] = (
            pictures,
            np.stack([captions.state_facts(words, *each) for each in said]),
            mine["identity"].to_numpy(),
        )
    return read


def measure_photographs(backbones: dict[str, Backbone], root: Path, role: str) -> dict[str, dict]:
    """Measure networks on photographs of 11k Hands: one-shot rank-1 by aspect, and the last network's zero-shot table.

    Choices may be made by the people of role ``train``; those of role ``test`` are for the report.
    """
    *_, last = backbones.values()
    read = _read_photographs(root, role, last.image_size[0])
    found: dict[str, dict] = {}
    for words, (pictures, _, ids) in read.items():
        scores = {"grey pixels 32x32": score_one_shot(flatten_pixels(pictures), ids)}
        scores |= {name: score_one_shot(encode(each, pictures).embedding, ids) for name, each in backbones.items()}
        found[words] = {"people": len(np.unique(ids)), "photographs": len(ids), **scores}
    seen = torch.cat([encode(last, pictures).in_text_space for pictures, *_ in read.values()])
    return found | {"zero-shot": zero_shot(last, seen, np.concatenate([facts for _, facts, _ in read.values()]))}


def watch(backbone: Backbone, photographs: Path | None) -> dict[str, float]:
    """Measure what may guide choices: drawn validation people, and photographs of training people under ``real``."""
    pictures, facts = _draw_unseen(PEOPLE["watched"], VALIDATION, backbone.image_size[0])
    found = zero_shot(backbone, encode(backbone, pictures).in_text_space, facts)
    if photographs:
        real = measure_photographs({"rank1": backbone}, photographs, "train")
        found |= {f"real {name}": value for name, value in real.pop("zero-shot").items()}
        found |= {f"real {aspect} rank1": scores["rank1"] for aspect, scores in real.items()}
    return found


def measure(trained: Backbone, untrained: Backbone, photographs: Path | None) -> dict:
    """Measure everything that is reported, on people that nothing was chosen on.

    Retrieval takes nine dorsal right pictures of each person, drawn as the demo's, in three sessions.
    """
    people, seed, size = PEOPLE["retrieval"], TEST + 1, trained.image_size[0]
    shots = [(number, session, shot) for number in range(people) for session in range(3) for shot in range(3)]
    drawn = [draw(Person(number, seed), "dorsal right", *when, seed=seed)[0] for number, *when in shots]
    pictures = torch.from_numpy(np.stack([squash(picture, size) for picture in drawn])).permute(0, 3, 1, 2)
    ids = np.array([number for number, *_ in shots])
    unseen, facts = _draw_unseen(PEOPLE["zero-shot"], TEST, size)
    networks = {"untrained network": untrained, "embedded clip": trained}
    result: dict[str, dict] = {
        "zero_shot_unseen_people": {
            "people": PEOPLE["zero-shot"],
            "seed": TEST,
            "score": "class-balanced accuracy",
            **zero_shot(trained, encode(trained, unseen).in_text_space, facts),
        },
        "rank1_unseen_people": {
            "people": people,
            "seed": seed,
            "score": "one-shot rank-1, dorsal right",
            "grey pixels 32x32": score_one_shot(flatten_pixels(pictures), ids),
            **{name: score_one_shot(encode(each, pictures).embedding, ids) for name, each in networks.items()},
        },
    }
    if photographs:
        result["photographs_test_people"] = measure_photographs(networks, photographs, "test")
    return result
