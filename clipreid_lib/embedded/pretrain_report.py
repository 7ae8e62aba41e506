"""What the embedded CLIP can do with people it never saw: zero-shot tables and one-shot retrieval."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import normalise
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.embedded import captions, synthetic_hands
from clipreid_lib.embedded.pretrain_images import render, squash, to_tensor

import open_clip  # isort: skip

VALIDATION, TEST = 20261124, 20261125  # seeds of the people watched while training, and of the report
PEOPLE = {"watched": 60, "zero-shot": 200, "retrieval": 50}  # during training; in the report
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def unseen(people: int, seed: int, folder: Path) -> tuple[torch.Tensor, pd.DataFrame]:
    """People no training saw: pictures (N, 3, S, S) uint8, unspoiled, and their rows.

    Args:
        people: how many, one after another from number 0.
        seed: of the people and their pictures.
        folder: where drawings are kept.
    """
    pictures, rows = render(people, 1, seed, folder)
    return to_tensor(pictures), rows


@torch.no_grad()
def embed(backbone: Backbone, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of uint8 squares (N, 3, S, S), unit length: ``f_proj`` (N, D), retrieval embedding (N, E).

    Args:
        backbone: the network.
        pictures: (N, 3, S, S) uint8; squashed to its input size where that is another.
    """
    backbone.eval()
    (size, _), parts = backbone.image_size, []
    for chunk in pictures.split(128):
        if chunk.shape[-1] != size:
            squares = [squash(picture.permute(1, 2, 0).numpy(), size) for picture in chunk]
            chunk = to_tensor(np.stack(squares))
        parts.append(backbone.image_features(normalise(chunk, MEAN, STD)))
    projected = torch.cat([part.f_proj for part in parts])
    return F.normalize(projected, dim=1), F.normalize(torch.cat([part.embedding for part in parts]), dim=1)


@torch.no_grad()
def classify(backbone: Backbone, features: torch.Tensor, prompts: dict[str, tuple[str, ...]]) -> np.ndarray:
    """Index of the best class per picture (N,), each class being the mean direction of its sentences.

    Args:
        backbone: whose text tower reads the prompts.
        features: (N, D) ``f_proj``, of unit length.
        prompts: class to its sentences.
    """
    classes = torch.stack([F.normalize(backbone.encode_texts(list(p)), dim=1).mean(0) for p in prompts.values()])
    return (features @ F.normalize(classes, dim=1).T).argmax(1).numpy()


def balanced(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over the classes present of the share recognised, in [0, 1].

    Args:
        predicted: (N,) class indices.
        true: (N,) likewise.
    """
    return round(float(np.mean([(predicted[true == value] == value).mean() for value in np.unique(true)])), 4)


def zero_shot(backbone: Backbone, pictures: torch.Tensor, rows: pd.DataFrame) -> dict[str, float]:
    """Class-balanced zero-shot accuracy of every fact that captions state, where the picture shows it.

    Args:
        backbone: the network.
        pictures: (N, 3, S, S) uint8.
        rows: (N rows) of ``HandInfo.csv``, in the same order.

    Returns:
        Accuracy in [0, 1] by fact and, in brackets, number of classes; facts that no picture shows are left out.
    """
    features, _ = embed(backbone, pictures)
    facts = np.stack([captions.facts_of(row) for row in rows.to_dict("records")])
    aspects = list(captions.ASPECT_PROMPTS)
    true = np.array([aspects.index(aspect) for aspect in rows["aspectOfHand"]])
    table = {"aspect (4)": balanced(classify(backbone, features, captions.ASPECT_PROMPTS), true)}
    for column, name in enumerate(captions.NAMES):
        visible = facts[:, column] >= 0
        if visible.any():
            predicted = classify(backbone, features[visible], captions.PROMPTS[name])
            table[f"{name} ({len(captions.FACTS[name])})"] = balanced(predicted, facts[visible, column])
    return table


def one_shot_rank1(features: torch.Tensor, ids: np.ndarray, draws: int = 10, seed: int = 0) -> float:
    """Rank-1 in [0, 1] with one random gallery picture per person, all others as queries, mean of ``draws``.

    Args:
        features: (N, D), compared by cosine.
        ids: (N,) person of each picture.
        draws: number of random galleries.
        seed: of the galleries.
    """
    features, rng, scores = F.normalize(features, dim=1), np.random.default_rng(seed), []
    for _ in range(draws):
        gallery = np.array([rng.choice(np.flatnonzero(ids == person)) for person in np.unique(ids)])
        queries = np.setdiff1d(np.arange(len(ids)), gallery)
        nearest = (features[queries] @ features[gallery].T).argmax(1).numpy()
        scores.append((ids[gallery][nearest] == ids[queries]).mean())
    return round(float(np.mean(scores)), 4)


def grey_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """The floor: uint8 squares (N, 3, S, S) as 32 x 32 grey pixels with their mean removed, (N, 1024)."""
    grey = F.interpolate(pictures.float().mean(1, keepdim=True), size=32, mode="bilinear", antialias=True)
    return (grey - grey.mean(dim=(2, 3), keepdim=True)).flatten(1)


def retrieval(trained: Backbone, untrained: Backbone, pictures: torch.Tensor, ids: np.ndarray) -> dict[str, float]:
    """One-shot rank-1 of both networks' frozen features and of grey pixels.

    Args:
        trained: the network.
        untrained: the same network as it was born.
        pictures: (N, 3, S, S) uint8.
        ids: (N,) person of each picture.
    """
    return {
        "grey pixels 32x32": one_shot_rank1(grey_pixels(pictures), ids),
        "untrained network": one_shot_rank1(embed(untrained, pictures)[1], ids),
        "embedded clip": one_shot_rank1(embed(trained, pictures)[1], ids),
    }


def retrieval_people(people: int, seed: int, side: int) -> tuple[torch.Tensor, np.ndarray]:
    """Nine dorsal right pictures of each person in three sessions: (N, 3, side, side) uint8, and ids (N,).

    Args:
        people: how many, one after another from number 0.
        seed: of the people and their pictures.
        side: of the squares in pixels.
    """
    pictures, ids = [], []
    for number in range(people):
        person = synthetic_hands.make_person(number, seed)
        for session in range(3):
            for shot in range(3):
                picture, _ = synthetic_hands.draw(person, "dorsal right", session, shot, size=(160, 120), seed=seed)
                pictures.append(squash(picture, side))
                ids.append(number)
    return to_tensor(np.stack(pictures)), np.array(ids)


def on_photographs(trained: Backbone, untrained: Backbone, folder: Path) -> dict:
    """Zero-shot and retrieval on a folder laid out as 11k Hands (HandInfo.csv, Hands/), whole or in part.

    Retrieval takes, within an aspect, the people without accessories who have two or more photographs.

    Args:
        trained: the network.
        untrained: the same network as it was born.
        folder: with ``HandInfo.csv`` and ``Hands/``; rows whose file is absent are left out.
    """
    rows = pd.read_csv(folder / "HandInfo.csv", dtype={"id": str})
    rows = rows[[(folder / "Hands" / name).exists() for name in rows["imageName"]]].reset_index(drop=True)
    files = rows.assign(path="Hands/" + rows["imageName"])
    pictures = torch.from_numpy(Photographs(folder).load(files, trained.image_size))
    report: dict[str, Any] = {"photographs": len(rows), "zero_shot": zero_shot(trained, pictures, rows), "rank1": {}}
    for aspect, part in rows[rows["accessories"] == 0].groupby("aspectOfHand"):
        part = part[part.groupby("id")["id"].transform("size") >= 2]
        index = torch.from_numpy(part.index.to_numpy())
        found = retrieval(trained, untrained, pictures[index], part["id"].to_numpy())
        report["rank1"][aspect] = {"people": part["id"].nunique(), "photographs": len(part), **found}
    return report


def measure(trained: Backbone, untrained: Backbone, real: Path | None, folder: Path) -> dict:
    """Everything that is reported, on people and photographs that nothing was chosen on.

    Args:
        trained: the network.
        untrained: the same network as it was born.
        real: photographs laid out as 11k Hands, or None.
        folder: where drawings are kept.
    """
    pictures, ids = retrieval_people(PEOPLE["retrieval"], TEST + 1, trained.image_size[0])
    people = {"people": PEOPLE["zero-shot"], "seed": TEST, "score": "class-balanced accuracy"}
    result = {
        "zero_shot_unseen_people": {**people, **zero_shot(trained, *unseen(PEOPLE["zero-shot"], TEST, folder))},
        "rank1_unseen_people": {
            **{"people": PEOPLE["retrieval"], "seed": TEST + 1, "score": "one-shot rank-1, dorsal right"},
            **retrieval(trained, untrained, pictures, ids),
        },
    }
    if real is not None:
        result["photographs"] = on_photographs(trained, untrained, real)
    return result
