"""Measure the embedded CLIP on people it never saw: zero-shot tables and one-shot retrieval."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.embedded import captions
from clipreid_lib.embedded.spoiled_pictures import draw_people, squash, to_tensor
from clipreid_lib.embedded.synthetic_hands import Person, draw

TEST = 20261125  # seed of the people of the report
PEOPLE = {"zero-shot": 200, "retrieval": 50}


@torch.no_grad()
def classify(backbone: Backbone, features: torch.Tensor, prompts: dict[str, tuple[str, ...]]) -> np.ndarray:
    """Pick the class nearest to each feature (N, D), a class being its sentences' mean direction: (N,) indices."""
    classes = torch.stack([F.normalize(backbone.encode_texts(list(p)), dim=1).mean(0) for p in prompts.values()])
    return (features @ F.normalize(classes, dim=1).T).argmax(1).numpy()


def balance(predicted: np.ndarray, true: np.ndarray) -> float:
    """Average over the classes present in ``true`` (N,) the share recognised: accuracy in [0, 1]."""
    return round(float(np.mean([(predicted[true == value] == value).mean() for value in np.unique(true)])), 4)


def zero_shot(backbone: Backbone, pictures: torch.Tensor, rows: pd.DataFrame) -> dict[str, float]:
    """Score the class-balanced zero-shot accuracy of every fact that captions state, where the picture shows it.

    Takes pictures (N, 3, S, S) uint8 and their N rows of ``HandInfo.csv``.

    Returns:
        Accuracy in [0, 1] by fact and, in brackets, number of classes.
    """
    pictures = to_tensor([squash(each.permute(1, 2, 0).numpy(), backbone.image_size[0]) for each in pictures])
    features = F.normalize(encode(backbone, pictures).f_proj, dim=1)
    facts = np.stack([captions.read_facts(row) for row in rows.to_dict("records")])
    aspects = list(captions.ASPECT_PROMPTS)
    true = np.array([aspects.index(aspect) for aspect in rows["aspectOfHand"]])
    table = {"aspect (4)": balance(classify(backbone, features, captions.ASPECT_PROMPTS), true)}
    for column, name in enumerate(captions.NAMES):
        visible = facts[:, column] >= 0
        predicted = classify(backbone, features[visible], captions.PROMPTS[name])
        table[f"{name} ({len(captions.FACTS[name])})"] = balance(predicted, facts[visible, column])
    return table


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


def measure(trained: Backbone, untrained: Backbone) -> dict:
    """Measure everything that is reported, on people that nothing was chosen on.

    Retrieval takes nine dorsal right pictures of each person, in three sessions. It scores the frozen features of both
    networks and, as a floor, 32 x 32 grey pixels with their mean removed.
    """
    people, seed = PEOPLE["retrieval"], TEST + 1
    shots = [(number, session, shot) for number in range(people) for session in range(3) for shot in range(3)]
    drawn = [draw(Person(number, seed), "dorsal right", *when, seed=seed)[0] for number, *when in shots]
    pictures = to_tensor([squash(picture, trained.image_size[0]) for picture in drawn])
    grey = F.interpolate(pictures.float().mean(1, keepdim=True), size=32, mode="bilinear", antialias=True)
    ids = np.array([number for number, *_ in shots])
    before, after = (F.normalize(encode(each, pictures).embedding, dim=1) for each in (untrained, trained))
    return {
        "zero_shot_unseen_people": {
            "people": PEOPLE["zero-shot"],
            "seed": TEST,
            "score": "class-balanced accuracy",
            **zero_shot(trained, *draw_people(PEOPLE["zero-shot"], 1, TEST)),
        },
        "rank1_unseen_people": {
            "people": people,
            "seed": seed,
            "score": "one-shot rank-1, dorsal right",
            "grey pixels 32x32": score_one_shot((grey - grey.mean(dim=(2, 3), keepdim=True)).flatten(1), ids),
            "untrained network": score_one_shot(before, ids),
            "embedded clip": score_one_shot(after, ids),
        },
    }
