"""What notebook 05 looks at: a run's draw 0 under every stage at hand, and everybody it was tested on."""

import contextlib

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.params.schema import ENCODER_FINETUNE
from clipreid_lib.runs.embeddings import embed_own
from clipreid_lib.runs.loading import load_trained_encoder
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import evaluation
from clipreid_lib.scores.encoder import Encoder
from clipreid_lib.scores.finished_run import find_runs, share_photographs

# What two runs must have in common for one to stand before the other.
ALIKE = (
    *("dataset", "model", "pretrained", "activation", "normalisation"),
    *("image_size", "resize", "patch_stride", "last_stride", "seed"),
)
MOST = 4000  # images on a map: t-SNE lays them out in about ten seconds, and more would hide one another


def rank_stages(run: Run, before: Encoder, encoder: Encoder) -> dict[str, Ranking]:
    """Rank draw 0's gallery under stage 0, a classifier run with the same draws if there is one, and this run.

    Args:
        run: an evaluated run; the last ranking is its own.
        before: its encoder as it was pretrained.
        encoder: its own.
    """
    images = run.manifest.images[run.manifest.images["draw_0"] != ""]
    found = {}
    if run.params.trains_encoder:
        found["stage 0, frozen"] = before.embed(images)
    if run.params.stage == ENCODER_FINETUNE and (other := _find_classifier(run)):
        with contextlib.suppress(UserError):  # its checkpoint is gone: then this run is looked at without it
            found["stage 1, classifier"] = load_trained_encoder(other).embed(images)
    found[f"this run, {run.params.variant}"] = embed_own(run, encoder, images)
    return {name: Ranking(*evaluation.compare_draw(each, run.manifest, 0)) for name, each in found.items()}


def list_tested(run: Run) -> pd.DataFrame:
    """Return the image table's rows of everybody tested, in all aspects; at most ``MOST``, evenly spaced.

    Images without features, of a run of variant ``external``, are passed over.
    """
    table = run.table[~run.table["path"].isin(run.table.attrs.get("featureless", []))]
    images = table[table["identity"].isin(set(run.manifest.test["subject"]))]
    return images.iloc[np.unique(np.linspace(0, len(images) - 1, MOST).astype(int))].reset_index(drop=True)


def _find_classifier(run: Run) -> Run | None:
    """Return an evaluated classifier run of the same backbone, seed and draws, if one lies in the same folder."""
    for other in find_runs(sorted(run.folder.parent.glob("*-classifier-*"))):
        same = all(getattr(other.params, key) == getattr(run.params, key) for key in ALIKE)
        same = same and share_photographs(other.folder, run.folder)
        if same and other.params.variant == "classifier" and other.own["compared_sha"] == run.manifest.compared_sha:
            return Run.at(other.folder)
    return None
