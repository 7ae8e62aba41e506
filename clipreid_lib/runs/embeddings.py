"""The embeddings that a run's test images are compared by, and the closed set of its training people."""

from typing import cast

import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib.clip.feed import Images
from clipreid_lib.method.labels import map_labels
from clipreid_lib.method.prompt_bank import PromptBank, text_logits
from clipreid_lib.method.tip_adapter import cache_logits
from clipreid_lib.runs.loading import load_pretrained_encoder
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.training import load_prompts
from clipreid_lib.scores.encoder import Encoder, pass_neck
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.given_features import GivenFeatures


def embed(run: Run, encoder: Encoder, images: pd.DataFrame) -> dict[str, Embeddings]:
    """Return every embedding that images can be compared by; the run's own scores stand on the first.

    Args:
        run: the run.
        encoder: its own, from :func:`~clipreid_lib.runs.loading.load_trained_encoder`.
        images: rows of the image table or of a manifest.

    Returns:
        ``tip_adapter``, where that is the variant: votes of the training images. ``image``: CLIP-ReID's ``f`` and
        ``f_proj`` side by side, after the composed feature of ``promptsg``. ``composed`` and ``uncomposed``, for
        ``promptsg``: that feature alone, and the others without it. ``profile``, for ``clipid``: the softmax of an
        image's similarities to all anchors. ``mirrored``, with ``flip_test``: features of each image plus those of its
        mirror image. ``stage 0``, where the run trains the encoder: the embedding before any training.
    """
    image = encoder.embed(images)
    made = {"tip_adapter": _vote(run, encoder, image)} if run.params.variant == "tip_adapter" else {}
    made["image"] = image
    if encoder.composer is not None:
        width = cast(int, encoder.composer.width)
        made["composed"] = Embeddings(image.paths, image.values[:, :width])
        made["uncomposed"] = Embeddings(image.paths, image.values[:, width:])
    if run.prompts.exists() and (bank := load_anchors(run, encoder)):
        made["profile"] = Embeddings(image.paths, _compare_anchors(encoder, bank, image).softmax(dim=1))
    if run.params.flip_test:
        print(
            "flip_test: a mirrored right hand looks like a left hand, and the other hands of people are among the "
            "distractors of protocol mba; compare the rows before you use it"
        )
        made["mirrored"] = encoder.embed(images, mirrored=True)
    if run.params.trains_encoder:
        made["stage 0"] = load_pretrained_encoder(run).embed(images)
    return made


def embed_own(run: Run, encoder: Encoder, images: pd.DataFrame) -> Embeddings:
    """Return the embedding that the run's own scores stand on: the image's, or Tip-Adapter's votes, (N, D)."""
    return _take_own(run, encoder, encoder.embed(images))


def embed_changed(run: Run, encoder: Encoder, images: pd.DataFrame, pixels: Images) -> Embeddings:
    """Return what :func:`embed_own` would of other pixels than the photographs', (N, D). Nothing is kept."""
    made = encoder.encode(images, pixels=pixels)
    return _take_own(run, encoder, Embeddings(made.paths, pass_neck(made.values, encoder.neck)))


def _take_own(run: Run, encoder: Encoder, image: Embeddings) -> Embeddings:
    return _vote(run, encoder, image) if run.params.variant == "tip_adapter" else image


def load_anchors(run: Run, encoder: Encoder) -> PromptBank | None:
    """Load the learned prompts whose anchors the run was trained towards; None for variants without anchors.

    Raises:
        UserError: the prompts are not learned yet, or of another backbone or data.
    """
    return load_prompts(run, encoder.backbone) if run.params.variant == "clipid" else None


def identify(run: Run, encoder: Encoder) -> dict[str, float]:
    """Identify the held-out images of training people: the closed set, where everybody is known.

    Returns:
        Share of right answers of ``nearest image`` (the training image of highest cosine), ``tip_adapter``
        (the votes of all training images; not of given features) and, for ``clipid``, ``anchors`` (the nearest learned
        anchor). Empty unless the run has ``validation: published``.
    """
    held_out = run.manifest.validation
    if held_out.empty or run.manifest.validates_people:
        return {}
    identities, rows = map_labels(run.manifest.train["identity"])
    known, asked = encoder.embed(run.manifest.train), encoder.embed(held_out)
    truth = torch.tensor([identities.index(identity) for identity in held_out["identity"]])
    unit = [functional.normalize(each.values, dim=1) for each in (asked, known)]
    answers = {
        "nearest image": rows[(unit[0] @ unit[1].T).argmax(dim=1)],
    }
    if not isinstance(encoder, GivenFeatures):
        answers["tip_adapter"] = _vote(run, encoder, asked).values.argmax(dim=1)
    if bank := load_anchors(run, encoder):
        answers["anchors"] = _compare_anchors(encoder, bank, asked).argmax(dim=1) // bank.each
    return {how: float((answer == truth).float().mean()) for how, answer in answers.items()}


def _vote(run: Run, encoder: Encoder, image: Embeddings) -> Embeddings:
    """Return Tip-Adapter's votes for each training identity, (N, identities)."""
    identities, rows = map_labels(run.manifest.train["identity"])
    keys = encoder.embed(run.manifest.train)
    votes = cache_logits(encoder.project(image), encoder.project(keys), rows, len(identities))
    return Embeddings(image.paths, votes)


def _compare_anchors(encoder: Encoder, bank: PromptBank, image: Embeddings) -> torch.Tensor:
    """Return each image's logits for all anchors, (N, identities)."""
    clip = encoder.backbone
    return text_logits(encoder.project(image), bank.anchors(clip).cpu(), "cosine", clip.logit_scale)
