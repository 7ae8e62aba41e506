"""Retrieval as notebook 05 shows it: one draw under every stage at hand, and images asked for in words."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import choices, gallery
from clipreid_lib.pages.contact_sheet import GAP, TILE
from clipreid_lib.pages.ranking import Ranking, called, spoken
from clipreid_lib.pages.style import INK, font
from clipreid_lib.pages.thumbnails import FRAME, LINE, draw_tile, fit
from clipreid_lib.params.schema import ENCODER_FINETUNE
from clipreid_lib.runs import stages
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.stages import Trained, projected
from clipreid_lib.scores import evaluation
from clipreid_lib.scores.leaderboard import read_metrics
from clipreid_lib.scores.similarity import cosine_similarity

# What two runs must have in common for one to stand before the other.
ALIKE = ("dataset", "model", "pretrained", "image_size", "resize", "patch_stride", "last_stride", "seed")
MOST = 4000  # images on a map: t-SNE lays them out in about ten seconds, and more would hide one another


def rankings(run: Run, trained: Trained) -> dict[str, Ranking]:
    """Rank draw 0's gallery under stage 0, a classifier run with the same draws if there is one, and this run.

    Args:
        run: an evaluated run.
        trained: its backbone.

    Returns:
        Rankings of the same queries, by stage; the run's own last.
    """
    images = run.manifest.images[run.manifest.images["draw_0"] != ""]
    found = {}
    if run.params.trains_encoder:
        found["stage 0, frozen"] = stages.embed_by(run, stages.pretrained(run), images)
    beyond_stage_1 = run.params.stage == ENCODER_FINETUNE
    if beyond_stage_1 and (other := _classifier_beside(run)):
        with contextlib.suppress(UserError):  # its checkpoint is gone: then this run is looked at without it
            found["stage 1, classifier"] = stages.embed_by(other, stages.load_trained(other), images)
    found[f"this run, {run.params.variant}"] = stages.own_embedding(run, trained, images)
    return {name: Ranking(*evaluation.compared(each, run.manifest, 0)) for name, each in found.items()}


def moved_most(named: dict[str, Ranking], root: str | Path, top: int = 8) -> Image.Image:
    """Draw the query that gained most from the first ranking to the last, and the one that lost most.

    Args:
        named: as from :func:`rankings`; with one alone, or where nothing moved, the hardest query is drawn.
        root: folder that the tables' paths are relative to.
        top: gallery images per row.
    """
    first, *_, last = [*named.values(), *named.values()]
    picked = choices.moved(first, last, 1)
    gain = last.average_precision() - first.average_precision()
    said = {1: "Query that gained most", -1: "Query that lost most", 0: "Hardest query"}
    return gallery.stacked(
        [gallery.before_and_after(named, root, int(q), top=top, why=said[int(np.sign(gain[q]))]) for q in picked]
    )


def tested_people(run: Run) -> pd.DataFrame:
    """Return the image table's rows of everybody tested, in all aspects; at most ``MOST``, evenly spaced."""
    images = run.table[run.table["identity"].isin(set(run.manifest.test["subject"]))]
    return images.iloc[np.unique(np.linspace(0, len(images) - 1, MOST).astype(int))].reset_index(drop=True)


def ask(run: Run, trained: Trained, images: pd.DataFrame, sentence: str, top: int = 8) -> pd.DataFrame:
    """Find the images nearest to a sentence, by cosine in the space CLIP shares between text and image.

    Args:
        run: the run.
        trained: its backbone; fine-tuning moves images away from where CLIP's words expect them, so stage 0 often
            understands a sentence better.
        images: rows of the image table to search.
        sentence: in plain words, such as "a left hand with dark skin".
        top: rows to return.

    Returns:
        The nearest rows with ``score``, best first.

    Raises:
        UserError: an empty sentence.
    """
    if not sentence.strip():
        raise UserError("sentence: is empty; write what to look for, such as: a photo of a left hand")
    clip = trained.backbone
    found = stages.embed_by(run, trained, images)
    with torch.no_grad():
        text = clip.encode_texts([sentence]).cpu()
    score = cosine_similarity(text, projected(found, clip))[0]
    best = np.argsort(-score, kind="stable")[:top]
    table = images.drop_duplicates("path").set_index("path")
    return table.loc[[found.paths[place] for place in best]].reset_index().assign(score=score[best])


def strip(table: pd.DataFrame, root: str | Path, title: str) -> Image.Image:
    """Draw the rows of :func:`ask` side by side with their scores.

    Args:
        table: rows of an image table with ``score``.
        root: folder that its paths are relative to.
        title: a line above.
    """
    wide = TILE + 2 * FRAME + GAP
    canvas = Image.new("RGB", (GAP + max(3, len(table)) * wide, 60 + TILE + 2 * FRAME + 3 * LINE + 2 * GAP), "white")
    bold = font(28, bold=True)
    ImageDraw.Draw(canvas).text((GAP, 12), fit(title, bold, canvas.width - 2 * GAP), INK, bold)
    for place, (_, row) in enumerate(table.iterrows()):
        captions = [f"{row['score']:.3f}", called(row), spoken(row["aspect"])]
        draw_tile(canvas, (GAP + place * wide, 60), Path(root) / row["path"], TILE, INK, captions)
    return canvas


def _classifier_beside(run: Run) -> Run | None:
    """Return an evaluated classifier run of the same backbone, seed and draws, if one lies in the same folder."""
    for folder in sorted(run.folder.parent.glob("*-classifier-*")):
        metrics = read_metrics(folder)
        if metrics is None or metrics["compared_sha"] != run.manifest.compared_sha:
            continue
        with contextlib.suppress(UserError):  # params of another version
            other = Run.at(folder)
            same = all(getattr(other.params, key) == getattr(run.params, key) for key in ALIKE)
            if same and other.params.variant == "classifier":
                return other
    return None
