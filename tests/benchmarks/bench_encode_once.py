"""Ten draws of one test, encoded once for all of them against encoded anew for each.

Anew: for every draw, its query and gallery images are decoded, encoded and scored, as a loop over draws usually does.
Ours: the feature store, empty at first, gets every image once and keeps it on disk; then all draws are scored, and all
galleries on top of them.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rows import Row, in_turn

from clipreid_lib.params import check
from clipreid_lib.runs import loading
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.metrics import score_retrieval

AIM = 5  # times as fast: each of ten draws needs every test image, and half of that may go to scoring and the disk
DRAWS, ROUNDS = 10, 3
SETTINGS = {  # the embedded CLIP is so quick that the store's own work weighs the most
    **{"variant": "frozen", "draws": DRAWS, "device": "cpu"},
    **{"demo_people": 40, "demo_images": 6, "demo_sessions": 2},
}


def rows() -> list[Row]:
    """Score the demo hands both ways."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Run.open(check.validate_params(SETTINGS | {"outputs_root": scratch}))
        start, manifest = loading.load_pretrained_encoder(run), run.manifest

        def anew(_: int) -> pd.DataFrame:
            scored = []
            for draw in range(DRAWS):
                query, gallery = manifest.draw(draw)
                encoded = start.encode(pd.concat([query, gallery]))
                mine, theirs = (encoded.of(side) for side in (query, gallery))
                scores = score_retrieval(mine, query["identity"], theirs, gallery["identity"])
                scored.append({"rank1": scores.at[1], "map": scores.map, "minp": scores.minp})
            return pd.DataFrame(scored)

        def once(number: int) -> pd.DataFrame:
            encoder = replace(start, folder=Path(scratch) / f"store {number}")
            return evaluate(encoder.embed(manifest.in_tests), manifest).per_draw[["rank1", "map", "minp"]]

        once(-1)  # warm up
        pairs, answers = in_turn(anew, once, ROUNDS)
        pd.testing.assert_frame_equal(*answers, check_names=False, check_index_type=False)
        images = len(manifest.test)
    note = f"{images} images, {DRAWS} draws, embedded CLIP at 96; scores equal"
    return [Row(f"scoring {DRAWS} draws", "encoding in every draw", "encoding once", pairs, AIM, note=note)]
