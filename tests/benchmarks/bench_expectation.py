"""Scores over all galleries against ten draws: 11k Hands' largest aspect with the other aspects' distractors, one core.

Easy: people far apart, so that few stand before a match. Hard: random features, so that everybody may.
"""

import resource

import numpy as np
import pandas as pd
import torch
from rows import Row, in_turn

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import metrics
from clipreid_lib.scores.evaluation import compare_draw
from clipreid_lib.scores.expectation import expect
from clipreid_lib.scores.features import Embeddings

AIM, AIM_GIB = 2.0, 0.5  # seconds; and what it may hold beyond what the process held before
WIDTH, PEOPLE, IMAGES, DISTRACTORS, ROUNDS = 1280, 71, 15, 219, 3
DRAWS = 10


def make_test(apart: float) -> tuple[Embeddings, Manifest]:
    """A test of 71 people and 219 distractors, 15 images each; ``apart`` is a person's length beside the noise."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(PEOPLE + DISTRACTORS), IMAGES)
    values = random.standard_normal((len(person), WIDTH), dtype=np.float32)
    values += apart * random.standard_normal((PEOPLE + DISTRACTORS, WIDTH), dtype=np.float32)[person]
    paths = [f"{number:05d}.jpg" for number in range(len(person))]
    role = np.where(person < PEOPLE, "test", "distractor")
    table = pd.DataFrame({"dataset": "folder", "protocol": "mba", "role": role, "subject": person, "path": paths})
    table = table.assign(identity=person, aspect="hand", camera=0)
    for draw in range(DRAWS):
        chosen = np.arange(PEOPLE + DISTRACTORS) * IMAGES + random.integers(0, IMAGES, PEOPLE + DISTRACTORS)
        asks = np.where(role == "test", "query", "").astype(object)
        asks[chosen] = "gallery"
        table[f"draw_{draw}"] = asks
    return Embeddings(paths, torch.from_numpy(values)), Manifest(table)


def score_draws(embeddings: Embeddings, manifest: Manifest) -> float:
    """Mean rank-1 of the draws, the similarities computed and ranked draw by draw."""
    found = []
    for draw in range(DRAWS):
        query, gallery, alike = compare_draw(embeddings, manifest, draw)
        found.append(metrics.score_similarity(alike, query["identity"], gallery["identity"]).at[1])
    return float(np.mean(found))


def score_all(embeddings: Embeddings, manifest: Manifest) -> float:
    """Expected rank-1 over all galleries."""
    found = expect(embeddings, manifest).per_query
    return float(np.average(found["rank1"], weights=found["weight"]))


def measure_held() -> float:
    """Return the most memory that this process ever held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rows() -> list[Row]:
    """Memory first, since it is the process's peak that tells it; then both ways in turn on an easy and a hard test."""
    torch.set_num_threads(1)
    tests = {"few before a match": make_test(0.4), "random features": make_test(0)}
    held = measure_held()
    score_all(*tests["random features"])
    pair, note = [(held, measure_held() - held)], "ours: what it adds to the process"
    memory = Row("all galleries, memory", "before", "added", pair, AIM_GIB, about="itself", unit="GiB", note=note)
    made = []
    for name, test in tests.items():
        pairs, (ten, every) = in_turn(
            lambda _, test=test: score_draws(*test), lambda _, test=test: score_all(*test), ROUNDS
        )
        assert abs(ten - every) < 0.02
        note = f"rank-1 {100 * ten:.1f} by draws, {100 * every:.1f} exactly"
        made.append(Row(f"all galleries, {name}", "ten draws", "all", pairs, AIM, about="itself", note=note))
    return [*made, memory]
