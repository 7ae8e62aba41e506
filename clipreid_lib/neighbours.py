"""Neighbours among the training images: what a stage has learned, before any test image is looked at."""

import numpy as np
import pandas as pd
import torch

from clipreid_lib import features, metrics
from clipreid_lib.backbone import Backbone
from clipreid_lib.gallery import Ranking
from clipreid_lib.prompt_bank import PromptBank
from clipreid_lib.runs import Run


def among_training_images(run: Run, clip: Backbone) -> Ranking:
    """Rank, for every training image whose person has another, all other training images by cosine similarity."""
    train = run.manifest.train.reset_index(drop=True)
    _, image = features.embed_table(clip, train, run.photographs)
    asks = np.flatnonzero(train["identity"].map(train["identity"].value_counts()) > 1)
    similarity = metrics.cosine_similarity(image.embedding[asks], image.embedding)
    similarity[np.arange(len(asks)), asks] = -np.inf  # nobody is their own neighbour
    return Ranking(train.iloc[asks].reset_index(drop=True), train, similarity)


def of_anchors(run: Run, clip: Backbone, bank: PromptBank) -> Ranking:
    """Rank, for every identity's text anchor, all training images; the first image of the identity stands for it."""
    train = run.manifest.train.reset_index(drop=True)
    _, image = features.embed_table(clip, train, run.photographs)
    similarity = metrics.cosine_similarity(bank.anchors(clip).cpu(), image.f_proj)
    first = train.drop_duplicates("identity").set_index("identity").loc[bank.identities].reset_index()
    return Ranking(first, train, similarity)


def most_changed(before: Ranking, after: Ranking, number: int = 3) -> list[int]:
    """Return the positions of the queries whose average precision rose most, then of those whose fell most."""
    gain = after.average_precision() - before.average_precision()
    order = np.argsort(-gain, kind="stable")
    return list(dict.fromkeys([*order[:number].tolist(), *order[len(order) - number :].tolist()]))


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
    tokens = torch.nn.functional.normalize(bank.learnt(rows), dim=2)  # (people, M, width)
    spelt = _whole_words(clip)
    words = torch.nn.functional.normalize(clip.text.token_embedding.weight[list(spelt)], dim=1)  # (words, width)
    best = (tokens @ words.T).topk(top, dim=2)
    spelt = list(spelt.values())
    named = [
        [
            ", ".join(f"{spelt[i]} ({c:.2f})" for i, c in zip(ids, cosines, strict=True))
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
