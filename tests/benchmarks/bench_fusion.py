"""Fusion of two runs of 11k Hands' size on two aspects, with every table's numbers, against the two runs alone.

Encoding is left out: embeddings are kept.
"""

import numpy as np
import pandas as pd
import torch
from rows import Row, in_turn

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.protocols import draw_once, name_draw
from clipreid_lib.scores import calibration, fusion
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.fusion import Fused, Line, Member

AIM = 10.0  # seconds
WIDTH, PEOPLE, IMAGES, DRAWS, APART, ROUNDS = 1280, 71, 15, 10, 0.25, 3


def make_run(seed: int, aspect: str) -> tuple[Member, Embeddings, Line]:
    """A run under protocol common: 71 people, 15 images each, ``APART`` a person's length beside the noise."""
    random, person = np.random.default_rng(seed), np.repeat(np.arange(PEOPLE), IMAGES)
    values = random.standard_normal((len(person), WIDTH), dtype=np.float32)
    values += APART * random.standard_normal((PEOPLE, WIDTH), dtype=np.float32)[person]
    facts = {"dataset": "11k", "protocol": "common", "role": "test", "subject": person, "identity": person}
    table = pd.DataFrame(facts | {"path": [f"{aspect}/{number:05d}.jpg" for number in range(len(person))]})
    table["aspect"] = aspect
    for draw in range(DRAWS):
        table[f"draw_{draw}"] = draw_once(table, name_draw(0, draw), "common")
    embeddings, manifest = Embeddings(table["path"].tolist(), torch.from_numpy(values)), Manifest(table).check()
    line = calibration.fit(fusion.measure(embeddings, manifest).pairs)
    return Member(aspect, aspect, manifest, 0, set()), embeddings, line


def rows() -> list[Row]:
    """Both runs by themselves; then the joined images, the sum, the mean and each run on the same questions."""
    torch.set_num_threads(1)
    members, embeddings, lines = zip(
        *(make_run(seed, aspect) for seed, aspect in enumerate(("back", "palm"))), strict=True
    )

    def alone(_: int) -> list[dict]:
        made = zip(members, embeddings, lines, strict=True)
        return [fusion.measure(values, member.manifest, line).flat for member, values, line in made]

    def together(_: int) -> list[dict]:
        questions = fusion.ask_together(members)
        sides = [questions.take(values, member.aspect) for member, values in zip(members, embeddings, strict=True)]
        made: list[Fused] = [*fusion.fuse(sides, lines, questions).values()]
        made += [fusion.measure(side, questions.manifest, line) for side, line in zip(sides, lines, strict=True)]
        return [each.flat for each in made]

    pairs, (single, fused) = in_turn(alone, together, ROUNDS)
    found = [f"{100 * each['rank1']:.1f}" for each in (*single, fused[0])]
    note = f"rank-1 {found[0]} and {found[1]} alone, {found[2]} fused"
    return [Row("fusion of two runs", "two runs alone", "fused", pairs, AIM, about="itself", note=note)]
