"""Neighbours among the training images: what a stage has learned, before any test image is looked at.

In all functions ``train`` are the training rows of a manifest, and a ranking is None where nobody can be asked for.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.method.prompt_bank import PromptBank
from clipreid_lib.pages import choices, embedding_map, gallery
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.pages.style import draw_sentence, write_line
from clipreid_lib.scores.encoder import Encoder
from clipreid_lib.scores.score_names import format_share
from clipreid_lib.scores.similarity import cosine_similarity

ASK = 2000  # training images that ask for their neighbours; each ranks all others


def rank_training_images(train: pd.DataFrame, encoder: Encoder) -> Ranking | None:
    """Rank all other training images for those, at most ``ASK``, whose person has several, by cosine similarity."""
    train = train.reset_index(drop=True)
    asks = np.flatnonzero(train["identity"].map(train["identity"].value_counts()) > 1)
    if not len(asks):
        return None
    asks = asks[np.unique(np.linspace(0, len(asks) - 1, ASK).astype(int))]
    image = encoder.embed(train).values
    similarity = cosine_similarity(image[asks], image)
    similarity[np.arange(len(asks)), asks] = -np.inf  # nobody is their own neighbour
    return Ranking(train.iloc[asks].reset_index(drop=True).assign(asks="training image"), train, similarity)


def rank_for_anchors(train: pd.DataFrame, encoder: Encoder, bank: PromptBank) -> Ranking:
    """Rank all training images for every identity's text anchor, by cosine, in the order of the label map.

    The first image of the identity stands for it. An anchor for one aspect of several asks the images of that aspect.
    """
    train = train.reset_index(drop=True)
    image = encoder.project(encoder.embed(train))
    similarity = cosine_similarity(bank.anchors(encoder.backbone).cpu(), image)
    if not bank.aspects:
        first = train.drop_duplicates("identity").set_index("identity").loc[bank.identities].reset_index()
        return Ranking(first.assign(asks="image of the person"), train, similarity)
    first = train.drop_duplicates(["identity", "aspect"]).sort_values(["identity", "aspect"], ignore_index=True)
    rows = first["identity"].map(bank.identities.index) * bank.each + first["aspect"].map(bank.aspects.index)
    apart = np.not_equal.outer(first["aspect"].to_numpy(), train["aspect"].to_numpy())
    return Ranking(first.assign(asks="image of the person"), train, np.where(apart, -np.inf, similarity[rows]))


def count_nearest(ranking: Ranking | None) -> str:
    """Say how often the nearest neighbour is the same person's."""
    if ranking is None:
        return "no training person has two images, so nobody can be asked for"
    share = format_share((ranking.first_hit() == 1).mean())
    return f"{share} % of {len(ranking.query)} training images have their own person nearest"


def choose_changed(before: Ranking | None, after: Ranking | None) -> list[int]:
    """Choose by :func:`~clipreid_lib.pages.choices.choose_moved` three queries that rose, and three that fell."""
    return [] if before is None or after is None else choices.choose_moved(before, after, 3).tolist()


def draw_neighbours(ranking: Ranking | None, root: Path, queries: list[int], title: str) -> Image.Image:
    """Draw some queries' six nearest neighbours below a title; a line of text where nobody can be asked for."""
    if ranking is not None:
        return gallery.draw_queries(ranking, root, queries, top=6, title=title)
    return write_line(f"{title}: {count_nearest(None)}")


def draw_anchor_map(train: pd.DataFrame, before: Encoder, after: Encoder, bank: PromptBank | None) -> plt.Figure:
    """Draw text anchors among the training images before training and, where that changed the encoder, after.

    A bank of None, of variants without anchors, draws a sentence.
    """
    if bank is None:
        return draw_sentence("This variant learns no anchors.")
    encoders = {"before fine-tuning": before} | ({"after": after} if after.sha != before.sha else {})
    panels = {name: each.project(each.embed(train)) for name, each in encoders.items()}
    anchors = bank.anchors(after.backbone).cpu()
    names = [identity for identity in bank.identities for _ in range(bank.each)]
    return embedding_map.draw_anchors(panels, train["identity"].tolist(), anchors, names)


@torch.no_grad()
def name_nearest_words(bank: PromptBank, clip: Backbone) -> pd.DataFrame:
    """Name the three words of CLIP's vocabulary that each learned token lies nearest to, for five identities.

    By cosine between token embeddings, as CoOp does by distance (arXiv 2109.01134, table 4); pieces of words are
    passed over. Learned tokens mostly lie far from every word, so the names hint at most.

    Returns:
        One row per identity (one in all for ``shared``), one column per token, ``word (cosine)``; for ``fixed``, which
        learns no token, the sentence.
    """
    people = np.unique(np.linspace(0, len(bank.identities) - 1, 5).astype(int))
    names, chosen = [bank.identities[person] for person in people], (people * bank.each).tolist()
    if bank.form == "fixed":
        return pd.DataFrame({"sentence": [bank.texts[row] for row in chosen]}, names)
    rows = torch.tensor(chosen[:1] if bank.form == "shared" else chosen, device=bank.codes.device)
    learnt = bank.learned_tokens(rows)
    assert learnt is not None  # only ``fixed`` learns none
    # In CLIP's vocabulary a piece that ends a word decodes to text with a space behind it.
    vocabulary = clip.text.token_embedding.weight
    spelt = {token: clip.tokenizer.decode([token]) for token in range(len(vocabulary))}
    words = {token: text[:-1] for token, text in spelt.items() if text[:-1].isalpha() and text.endswith(" ")}
    spellings = np.array(list(words.values()))
    tokens = functional.normalize(learnt, dim=2)  # (people, M, width)
    best = (tokens @ functional.normalize(vocabulary[list(words)], dim=1).T).topk(3, dim=2)  # (people, M, 3)
    nearest, cosines = spellings[best.indices.cpu().numpy()], best.values.cpu().numpy()
    named = [
        [", ".join(f"{word} ({c:.2f})" for word, c in zip(*token, strict=True)) for token in zip(*person, strict=True)]
        for person in zip(nearest, cosines, strict=True)
    ]
    index = ["everybody"] if bank.form == "shared" else names
    return pd.DataFrame(named, index=index, columns=[f"[X]{m + 1}" for m in range(tokens.shape[1])])
