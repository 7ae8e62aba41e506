"""Neighbours among the training images: what a stage has learned, before any test image is looked at."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.method.prompt_bank import PromptBank
from clipreid_lib.pages import choices, embedding_map, gallery
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.pages.style import INK, font, sentence
from clipreid_lib.runs import stages
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.stages import Trained, projected, store_of
from clipreid_lib.runs.training import load_prompts
from clipreid_lib.scores.similarity import cosine_similarity

ASK = 2000  # training images that ask for their neighbours; each ranks all others


def among_training_images(run: Run, trained: Trained) -> Ranking | None:
    """Rank other training images for training images whose person has several, by cosine similarity.

    Args:
        run: the run.
        trained: its backbone, before or after training.

    Returns:
        At most ``ASK`` queries against all training images, each without itself; None where nobody has two images.
    """
    train = run.manifest.train.reset_index(drop=True)
    asks = np.flatnonzero(train["identity"].map(train["identity"].value_counts()) > 1)
    if not len(asks):
        return None
    asks = asks[np.unique(np.linspace(0, len(asks) - 1, ASK).astype(int))]
    image = store_of(run).embed(trained.backbone, trained.sha, train).values
    similarity = cosine_similarity(image[asks], image)
    similarity[np.arange(len(asks)), asks] = -np.inf  # nobody is their own neighbour
    return Ranking(train.iloc[asks].reset_index(drop=True).assign(asks="training image"), train, similarity)


def told(ranking: Ranking | None) -> str:
    """Say how often the nearest neighbour is the same person's."""
    if ranking is None:
        return "no training person has two images, so nobody can be asked for"
    share = 100 * (ranking.first_hit() == 1).mean()
    return f"{share:.1f} % of {len(ranking.query)} training images have their own person nearest"


def sheet(ranking: Ranking | None, root: Path, queries: list[int], title: str) -> Image.Image:
    """Draw some queries' six nearest neighbours; a line of text where there is nothing to draw.

    Args:
        ranking: from :func:`among_training_images` or :func:`of_anchors`; None where nobody can be asked for.
        root: folder that the tables' paths are relative to.
        queries: query positions, in the order to draw them.
        title: a line above.
    """
    if ranking is not None:
        return gallery.sheet(ranking, root, queries, top=6, title=title)
    canvas = Image.new("RGB", (1400, 80), "white")
    ImageDraw.Draw(canvas).text((16, 24), f"{title}: {told(None)}", INK, font(28))
    return canvas


def of_anchors(run: Run, trained: Trained, bank: PromptBank) -> Ranking:
    """Rank, for every identity's text anchor, all training images; the first image of the identity stands for it.

    Args:
        run: the run.
        trained: its backbone.
        bank: its learned prompts.

    Returns:
        (identities, training images) cosines as a ranking, one query per identity in the order of the label map.
    """
    train = run.manifest.train.reset_index(drop=True)
    clip = trained.backbone
    image = projected(store_of(run).embed(clip, trained.sha, train), clip)
    similarity = cosine_similarity(bank.anchors(clip).cpu(), image)
    first = train.drop_duplicates("identity").set_index("identity").loc[bank.identities].reset_index()
    return Ranking(first.assign(asks="image of the person"), train, similarity)


def anchor_map(run: Run, trained: Trained) -> plt.Figure:
    """Draw the run's anchors among its training images, before training and after.

    Args:
        run: the run; only variant ``clipid`` has anchors, of any other a sentence is drawn.
        trained: its backbone, from :func:`~clipreid_lib.runs.stages.load_trained`.
    """
    if run.params.variant != "clipid":
        return sentence(f"Variant {run.params.variant} learns no anchors.")
    train, store = run.manifest.train, store_of(run)
    stages_at_hand = {"before fine-tuning": stages.pretrained(run)}
    if trained.sha != stages_at_hand["before fine-tuning"].sha:  # prompt_learn leaves the encoder as it was
        stages_at_hand["after"] = trained
    panels = {
        name: projected(store.embed(each.backbone, each.sha, train), each.backbone)
        for name, each in stages_at_hand.items()
    }
    bank = load_prompts(run, trained.backbone)
    anchors = bank.anchors(trained.backbone).cpu()
    return embedding_map.draw_anchors(panels, train["identity"].tolist(), anchors, bank.identities)


def most_changed(before: Ranking | None, after: Ranking | None, number: int = 3) -> list[int]:
    """Return the positions of the queries whose average precision rose most, then of those whose fell most.

    Args:
        before: ranking before training; None where nobody can be asked for.
        after: of the same queries after training.
        number: queries of each kind, at most.

    Returns:
        Query positions; the hardest where nothing moved, none without rankings.
    """
    if before is None or after is None:
        return []
    return choices.moved(before, after, number).tolist()


@torch.no_grad()
def nearest_words(bank: PromptBank, clip: Backbone, people: int = 5, top: int = 3) -> pd.DataFrame:
    """Name the vocabulary's words that learned tokens lie nearest to.

    By cosine between token embeddings, as CoOp does by distance (arXiv 2109.01134, table 4); pieces of words are
    passed over. Learned tokens mostly lie far from every word, so the names hint at most.

    Args:
        bank: learned prompts.
        clip: whose vocabulary to search.
        people: identities to name, evenly spaced.
        top: words per token.

    Returns:
        One row per identity (one in all for ``shared``), one column per token, ``word (cosine)``; for ``fixed``, which
        learns no token, the sentence.
    """
    chosen = np.unique(np.linspace(0, len(bank.identities) - 1, people).astype(int)).tolist()
    if bank.form == "fixed":
        return pd.DataFrame({"sentence": [bank.texts[row] for row in chosen]}, [bank.identities[row] for row in chosen])
    rows = torch.tensor(chosen[:1] if bank.form == "shared" else chosen, device=bank.codes.device)
    learnt = bank.learnt(rows)
    assert learnt is not None  # only ``fixed`` learns none
    tokens = torch.nn.functional.normalize(learnt, dim=2)  # (people, M, width)
    spelt = _whole_words(clip)
    words = torch.nn.functional.normalize(clip.text.token_embedding.weight[list(spelt)], dim=1)  # (words, width)
    best = (tokens @ words.T).topk(top, dim=2)
    spellings = list(spelt.values())
    named = [
        [
            ", ".join(f"{spellings[i]} ({c:.2f})" for i, c in zip(ids, cosines, strict=True))
            for ids, cosines in zip(person_ids, person_cosines, strict=True)
        ]
        for person_ids, person_cosines in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    index = ["everybody"] if bank.form == "shared" else [bank.identities[row] for row in rows.tolist()]
    return pd.DataFrame(named, index=index, columns=[f"[X]{m + 1}" for m in range(tokens.shape[1])])


def _whole_words(clip: Backbone) -> dict[int, str]:
    # In CLIP's vocabulary a piece that ends a word decodes to text with a space behind it.
    spelt = {token: clip.tokenizer.decode([token]) for token in range(len(clip.text.token_embedding.weight))}
    return {token: text[:-1] for token, text in spelt.items() if text[:-1].isalpha() and text.endswith(" ")}
