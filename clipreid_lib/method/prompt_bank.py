"""Learnable prompts: sentences about every identity, and how image and text features are compared."""

import re
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.sentences import SLOT, Sentences

AT_ONCE = 256  # sentences through the text tower at a time, when all are wanted
SPOKEN = {"r": "right", "l": "left"}  # parts of an aspect's name
SEEN = {"dorsal": "back", "palmar": "palm"}


class PromptBank(nn.Module):
    """Prompts of every identity, in one of three forms.

    ============ ===================================== ====================================================
    form         sentence                              learns
    ============ ===================================== ====================================================
    ``learned``  a photo of a [X]1 ... [X]M hand.      M tokens per identity: CLIP-ReID (arXiv 2211.13977)
    ``shared``   a photo of a [X]1 ... [X]M WORDS      M tokens that all share: CoOp (arXiv 2109.01134), the
                                                       identity's attributes in place of a class name
    ``fixed``    a photo of a WORDS                    nothing
    ============ ===================================== ====================================================

    Where a training has images of several aspects, each identity has a sentence for each of them, all with the same
    learnt tokens: ``a photo of the palm of the left hand of [X]1 ... [X]M.``

    With ``prompt_dim`` each token is a short code that one linear layer, shared by all identities and learnt with
    them, maps to the text width.

    Args:
        backbone: whose vocabulary and text tower the prompts are written for; it is not held or changed.
        identities: the people, in the order of the rows; kept as the label map.
        num_prompts: M, learnable tokens per sentence.
        prompt_dim: width of a code; None learns at the text width itself, as CLIP-ReID does.
        form: ``learned``, ``shared`` or ``fixed``.
        words: what to say of each identity (``fair male left palmar hand.``); ``learned`` says the noun of all. Of
            several aspects one for each, those of an identity together.
        noun: end of ``learned`` sentences: ``hand.``, or CLIP-ReID's ``person.``; those of several aspects have none.
        aspects: of the training images, ascending, if there are several.

    Raises:
        UserError: M tokens do not fit the context.
        ValueError: words are needed and not one per identity and aspect.
    """

    def __init__(
        self,
        backbone: Backbone,
        identities: Sequence,
        num_prompts: int = 4,
        prompt_dim: int | None = None,
        form: str = "learned",
        words: list[str] | None = None,
        noun: str = "hand.",
        aspects: Sequence[str] = (),
    ) -> None:
        """Tokenise the sentences once and draw the codes from N(0, 0.02), CLIP's own scale of embeddings."""
        super().__init__()
        self.identities = list(identities)
        self.form, self.aspects = form, list(aspects)
        self.each = max(1, len(aspects))  # sentences of an identity
        if form != "learned" and len(words or []) != len(self.identities) * self.each:
            raise ValueError(f"form {form} says something of each of {len(self.identities)} identities and aspects")
        slots = 0 if form == "fixed" else num_prompts
        marks = " ".join([SLOT] * slots)
        said = [" ".join(filter(None, ["a photo of a", marks, text])) for text in words or []]
        if form == "learned":
            several = [f"a photo of {describe_aspect(aspect)} of {marks}." for aspect in aspects]
            said = several or [f"a photo of a {marks} {noun}"]
        self.sentences = Sentences(backbone, said, slots)
        if slots:
            owners = 1 if form == "shared" else len(self.identities)
            width = backbone.text_width
            self.codes = nn.Parameter(torch.randn(owners, slots, prompt_dim or width) * 0.02)  # (owners, M, dim)
            self.to_width = nn.Linear(prompt_dim, width, bias=False) if prompt_dim else nn.Identity()

    @property
    def texts(self) -> list[str]:
        """The sentences as they are tokenised, with an ``x`` in the place of each learnable token."""
        return self.sentences.texts

    @property
    def readable_texts(self) -> list[str]:
        """The sentences for people to read, with ``[X]1 [X]2 ...`` in those places."""
        places = range(1, self.sentences.slots + 1)
        slots, names = (" ".join(each) for each in ([SLOT for _ in places], [f"[X]{place}" for place in places]))
        return [re.sub(rf" {slots}\b", f" {names}", text, count=1) for text in self.texts]

    @property
    def names(self) -> list[str]:
        """Whose each sentence is, and, where there are several aspects, of which."""
        return [f"{identity} {aspect}".strip() for identity in self.identities for aspect in self.aspects or [""]]

    @property
    def kinds(self) -> int:
        """How many identities the sentences can tell apart: all if each learns, else as many as differ in words."""
        if self.form == "learned":
            return len(self.identities)
        return len({*zip(*(self.texts[place :: self.each] for place in range(self.each)), strict=True)})

    def learned_tokens(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Return the learnt tokens of some sentences' identities, (B, M, text_width); None for ``fixed``."""
        if self.form == "fixed":
            return None
        return self.to_width(self.codes[torch.zeros_like(rows) if self.form == "shared" else rows // self.each])

    def text_features(self, backbone: Backbone, rows: torch.Tensor) -> torch.Tensor:
        """Return some sentences' text features, (B, embed_dim), through the text tower that the bank was made for.

        ``rows`` (B,) name the sentences: the identity's row in the label map, times ``each``, plus the aspect's.
        """
        spoken = rows % self.each if self.form == "learned" else rows
        return self.sentences.features(backbone, self.learned_tokens(rows), spoken)

    @torch.no_grad()
    def anchors(self, backbone: Backbone) -> torch.Tensor:
        """Return every sentence's text feature, (identities * each, embed_dim), un-normalised; identity by identity."""
        rows = torch.arange(len(self.identities) * self.each, device=self.sentences.tokens.device)
        return torch.cat([self.text_features(backbone, part) for part in rows.split(AT_ONCE)])


def text_logits(image: torch.Tensor, text: torch.Tensor, how: str, scale: float) -> torch.Tensor:
    """Similarity of images to texts as the losses take it.

    Args:
        image: (B, D) projected image features.
        text: (T, D) text features.
        how: ``dot`` takes raw dot products (as published: CLIP's feature norms of about 10 act as the
            temperature); ``cosine`` takes cosines times ``scale`` and so works whatever a backbone's norms are.
        scale: CLIP's learned inverse temperature.

    Returns:
        (B, T).
    """
    image, text = scale_pair(image, text, how, scale)
    return image @ text.T


def scale_pair(image: torch.Tensor, text: torch.Tensor, how: str, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both sides such that their plain dot product is what :func:`text_logits` describes.

    Args:
        image: (B, D) projected image features.
        text: (T, D) text features.
        how: ``dot`` leaves both as they are; ``cosine`` scales them to length one, the images then by ``scale``.
        scale: CLIP's learned inverse temperature.

    Returns:
        (B, D) and (T, D).
    """
    if how == "dot":
        return image, text
    return nn.functional.normalize(image, dim=1) * scale, nn.functional.normalize(text, dim=1)


def describe_people(
    table: pd.DataFrame, identities: Sequence, dataset: str, noun: str = "hand.", aspects: Sequence[str] = ()
) -> list[str]:
    """Describe each identity by what its own images' metadata say.

    Args:
        table: image rows with ``identity``, ``aspect`` and any of ``skin_color``, ``gender``, ``nail_polish``.
        identities: in the order wanted.
        dataset: for messages.
        noun: what the pictures show, with the full stop that ends a sentence, or without one.
        aspects: to describe each identity for each of; none takes the one that most of its images show.

    Returns:
        One ending of "a photo of a ..." each, such as ``fair skinned male dorsal right hand with nail polish.``

    Raises:
        UserError: the data set brings no attribute, so that all sentences would be the same.
    """
    known = [name for name in ("skin_color", "gender", "nail_polish") if name in table]
    if not known:
        raise UserError(f"prompt_form: {dataset} says nothing about its people; use learned")
    people = table.groupby("identity")[["aspect", *known]].agg(lambda values: values.mode().iloc[0])
    return [_describe(people.loc[each], aspect, noun) for each in identities for aspect in aspects or [""]]


def describe_aspect(aspect: str) -> str:
    """Say what images of an aspect show: ``the palm of the left hand``, and of other names ``the NAME``."""
    view, _, side = aspect.partition("_")
    if view in SEEN and side in SPOKEN:
        return f"the {SEEN[view]} of the {SPOKEN[side]} hand"
    return f"the {aspect.replace('_', ' ')}"


def _describe(person: pd.Series, aspect: str, noun: str) -> str:
    aspect = aspect or str(person["aspect"])
    noun, stop, _ = noun.partition(".")
    words = [f"{person['skin_color']} skinned"] if person.get("skin_color") else []
    words += [str(person["gender"])] if person.get("gender") else []
    words += [SPOKEN.get(word, word) for word in aspect.split("_")]
    if words[-1] != noun:
        words.append(noun)
    return " ".join(words) + (" with nail polish" if person.get("nail_polish") else "") + stop
