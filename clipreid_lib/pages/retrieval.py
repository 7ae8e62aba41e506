"""Images asked for in words, in the space that CLIP shares between text and image."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages.gallery import draw_found
from clipreid_lib.scores.encoder import Encoder
from clipreid_lib.scores.given_features import ONLY, GivenFeatures
from clipreid_lib.scores.similarity import cosine_similarity


def draw_asked(encoder: Encoder, images: pd.DataFrame, sentence: str, root: Path, top: int = 8) -> Image.Image | None:
    """Draw what :func:`ask` finds; print a line, and draw nothing, where the encoder reads no sentences.

    ``root`` is the folder that the images' paths start from; the rest is as for :func:`ask`.
    """
    if isinstance(encoder, GivenFeatures):
        print(ONLY)
        return None
    if encoder.backbone.mute:
        print(f"{encoder.backbone.mute}; it cannot be asked in words")
        return None
    return draw_found(ask(encoder, images, sentence, top), root, sentence)


def ask(encoder: Encoder, images: pd.DataFrame, sentence: str, top: int = 8) -> pd.DataFrame:
    """Find the images nearest to a sentence by cosine.

    Args:
        encoder: fine-tuning moves images away from where CLIP's words expect them, so the encoder as it was pretrained
            often understands a sentence better.
        images: rows of the image table to search.
        sentence: in plain words, such as "a left hand with dark skin".
        top: rows to return.

    Returns:
        The nearest rows with ``score``, best first.

    Raises:
        UserError: an empty sentence, or features that another program made.
    """
    if not sentence.strip():
        raise UserError("sentence: is empty; write what to look for, such as: a photo of a left hand")
    if isinstance(encoder, GivenFeatures):
        raise UserError(ONLY)
    found = encoder.embed(images)
    with torch.no_grad():
        text = encoder.backbone.encode_texts([sentence]).cpu()
    score = cosine_similarity(text, encoder.project(found))[0]
    best = np.argsort(-score, kind="stable")[:top]
    table = images.drop_duplicates("path").set_index("path")
    return table.loc[[found.paths[place] for place in best]].reset_index().assign(score=score[best])
