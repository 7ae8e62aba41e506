"""A run's training: the method's arguments, made from the run's params and data, and the checkpoints of the stages."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.data.pixels import PixelsOnDemand, load_pixels
from clipreid_lib.method.augment import enlarge
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.encoder_finetune import EncoderSettings
from clipreid_lib.method.inversion import InversionLoss
from clipreid_lib.method.labels import map_labels
from clipreid_lib.method.loss_terms import AnchorLoss, IdentityLoss, Term, TripletLoss
from clipreid_lib.method.prompt_bank import PromptBank, describe_people
from clipreid_lib.method.prompt_learning import PromptSettings
from clipreid_lib.method.promptsg import SentenceLoss
from clipreid_lib.method.resume import MINUTE, Keep
from clipreid_lib.params.recipes import recipe_of
from clipreid_lib.params.schema import HAND
from clipreid_lib.runs.preflight import check_prompts
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import evaluation
from clipreid_lib.scores.encoder import join_necks, pass_neck
from clipreid_lib.scores.features import Embeddings

TRIPLET = ("clipid", "clipid_no_text", "promptsg")  # variants that pull images of one person together


@dataclass(frozen=True)
class TrainingSet:
    """A run's training images as the method takes them.

    Attributes:
        images: (N, 3, H, W) uint8: a tensor, or where that would be too large, what reads rows of it on demand.
        labels: (N,) each image's identity.
        side: (N,) each image's row in the backbone's side information; None without.
        words: what the data set says of each identity, in ascending order; None for prompts that say nothing.
        aspects: (N,) each image's aspect; None where all have the same.
    """

    images: torch.Tensor | PixelsOnDemand
    labels: list[int]
    side: torch.Tensor | None
    words: list[str] | None
    aspects: list[str] | None


def load_training_set(run: Run, clip: Backbone, as_tested: bool = False) -> TrainingSet:
    """Decode the run's training images as its backbone wants them.

    Args:
        run: whose manifest names the images.
        clip: its backbone, whose input size and side information they get.
        as_tested: as stage 2a encodes them, with ``test_resize``; else for augmentation.

    Raises:
        UserError: an image cannot be read; the data set says nothing that ``shared`` or ``fixed`` prompts could say.
    """
    train = run.manifest.train
    photographs, size = run.photographs, clip.image_size
    if not as_tested:
        photographs = replace(photographs, rule=run.params.resize)
        size = enlarge(size) if run.params.padding == "enlarge" else size
    images = load_pixels(photographs, train, size)
    words = _words(run, run.params.prompt_form) if run.params.learns_prompts else None
    aspects = train["aspect"].tolist() if _list_aspects(run) else None
    return TrainingSet(images, train["identity"].tolist(), clip.side_rows(train), words, aspects)


def prompt_settings(run: Run) -> PromptSettings:
    """Return the run's settings of stage 2a. No null is left in a run's params."""
    params = run.params
    return PromptSettings(
        epochs=cast(int, params.prompt_epochs),
        lr=cast(float, params.prompt_lr),
        warm_up=recipe_of(params.model).prompt_warm_up,
        batch_size=cast(int, params.batch_size),
        num_prompts=params.num_prompts,
        prompt_dim=params.prompt_dim,
        noun=params.noun or HAND,  # a run of version 0.1.0 says hand. of everything
        form=params.prompt_form,
        loss=params.prompt_loss,
        logits=params.prompt_logits,
        seed=params.seed,
    )


def encoder_settings(run: Run) -> EncoderSettings:
    """Return the run's settings of stages 1 and 2b. No null is left in a run's params."""
    params, recipe = run.params, recipe_of(run.params.model)
    return EncoderSettings(
        epochs=cast(int, params.encoder_epochs),
        lr=cast(float, params.encoder_lr),
        head_lr=cast(float, params.head_lr),
        schedule=params.schedule,
        warm_start=recipe.warm_start,
        steps=recipe.steps,
        batch_size=cast(int, params.batch_size),
        images_per_identity=params.images_per_identity,
        sampler=params.sampler,
        flip=params.flip_train,
        padding=params.padding,
        erasing=params.erasing,
        weight_decay=cast(float, params.weight_decay),
        bias_factor=params.bias_factor or recipe.bias_factor,
        compose=params.composes,
        noun=params.noun or HAND,
        accumulate=params.accumulate,
        checkpointing=params.checkpointing,
        precision=params.precision,
        seed=params.seed,
        train=params.train,
    )


def loss_terms(run: Run, clip: Backbone) -> dict[str, Term]:
    """Return the loss terms of the run's variant, with the weights of its params.

    ============== ============= ======= ==========================================
    variant        identity CE   triplet text
    ============== ============= ======= ==========================================
    classifier     yes           no      no
    clipid_no_text yes           yes     no
    clipid         yes           yes     image-to-text CE to 2a's frozen anchors
    inversion      yes           no      contrast with a sentence made of the image
    promptsg       yes           yes     the same contrast; none with ``prompt_form: fixed``
    ============== ============= ======= ==========================================

    The cross entropy and the triplet loss of ``promptsg`` are those of its composed feature, too.

    Args:
        run: the run.
        clip: its pretrained backbone, which turns the learned prompts into anchors.

    Raises:
        UserError: variant ``clipid`` finds no learned prompts, or prompts of other people or another backbone.
    """
    params = run.params
    terms = {"identity": Term(cast(float, params.id_weight), IdentityLoss(params.label_smoothing))}
    if params.variant in TRIPLET:
        terms["triplet"] = Term(params.triplet_weight, TripletLoss(params.triplet_margin))
    if params.variant == "clipid":
        bank = load_prompts(run, clip)
        anchors = bank.anchors(clip)  # (identities * each, embed_dim), frozen
        anchors = anchors.unflatten(0, (-1, bank.each)) if bank.each > 1 else anchors
        loss = AnchorLoss(anchors, clip.logit_scale, params.text_logits, params.label_smoothing)
        terms["image_to_text"] = Term(params.text_weight, loss)
    if params.variant == "inversion":
        terms["inversion"] = Term(params.text_weight, InversionLoss(params.text_logits, params.noun or HAND))
    if params.composes == "word":
        terms["sentence"] = Term(params.text_weight, SentenceLoss(clip.logit_scale, params.text_logits))
    return terms


def keep_prompts(run: Run) -> Keep:
    """Say where stage 2a keeps its log and resume state."""
    key = f"{run.params.run_id} {run.manifest.sha} {run.trained_on}"
    return Keep(run.logs / "prompts.csv", run.models / "prompts.resume.pt", key, _save_every())


def keep_encoder(run: Run) -> Keep:
    """Say where stages 1 and 2b keep their log and resume state."""
    key = f"{run.params.run_id} {run.manifest.sha} {run.trained_on} {_prompts_sha(run)}"
    return Keep(run.logs / "encoder.csv", run.models / "encoder.resume.pt", key, _save_every())


def save_prompts(run: Run, clip: Backbone, bank: PromptBank) -> None:
    """Write ``prompts.safetensors``, which says for whom and for which backbone the prompts were learned.

    Raises:
        UserError: the folder cannot be written.
    """
    params = run.params
    facts = {
        "kind": "prompts",
        **backbone.describe(clip),
        "identities": bank.identities,
        "names": _hash_names(run),
        "prompt_form": params.prompt_form,
        "sentences": bank.texts,
        "token_ids": bank.sentences.tokens.tolist(),
        "num_prompts": params.num_prompts,
        "prompt_dim": params.prompt_dim,
        **run.facts(),
    }
    checkpoints.save(run.models / "prompts.safetensors", bank.state_dict(), facts)


def load_prompts(run: Run, clip: Backbone) -> PromptBank:
    """Load the prompts stage 2b is to be trained towards, checked against this run's params, people and backbone.

    Raises:
        UserError: there are none, or they were learned for other people, from other data, or for another backbone, or
            are other prompts than the params say.
    """
    params = run.params
    if not run.prompts.exists():
        remedy = "resume_prompt names it" if params.resume_prompt else "run notebook 02 with the same params first"
        raise UserError(f"{run.prompts}: no learned prompts there; {remedy}")
    check_prompts(params, run.prompts)
    tensors, facts = checkpoints.load(run.prompts, "prompts")
    people = _people(run)
    wanted = {**backbone.describe(clip), "resize": params.resize, "identities": people}
    checkpoints.require(run.prompts, facts, wanted)
    if facts.get("names") not in (None, _hash_names(run)):  # version 0.1.0 wrote none
        raise UserError(f"{run.prompts}: was learned for people of other names")
    form, noun = params.prompt_form, params.noun or HAND
    shape = params.num_prompts, params.prompt_dim, form
    bank = PromptBank(clip, people, *shape, _words(run, form), noun, _list_aspects(run))
    checkpoints.require(run.prompts, facts, {"sentences": bank.texts})
    bank.load_state_dict(tensors)
    return bank.requires_grad_(False).to(clip.device)


def save_encoder(run: Run, clip: Backbone, model: ClipidModel, terms: dict[str, Term]) -> None:
    """Write ``encoder.safetensors``: image tower, heads, and the losses that learned along, each under its name.

    Raises:
        UserError: the folder cannot be written.
    """
    parts: dict[str, nn.Module] = {"visual": clip.clip.visual, **model.heads}
    if model.composer is not None:
        parts["composer"] = model.composer
    for name, term in terms.items():
        if isinstance(term.loss, InversionLoss):
            parts["inversion"] = term.loss.reader.network
        elif isinstance(term.loss, nn.Module):
            parts[f"loss.{name}"] = term.loss
    tensors = {f"{part}.{name}": value for part, each in parts.items() for name, value in each.state_dict().items()}
    facts = {
        "kind": "encoder",
        **backbone.describe(clip),
        "identities": _people(run),
        "variant": run.params.variant,
        "prompts_sha": _prompts_sha(run),
        "number_format": run.params.precision,
        **run.facts(),
    }
    checkpoints.save(run.models / "encoder.safetensors", tensors, facts)


def make_validation(run: Run, clip: Backbone) -> Callable[[ClipidModel], dict[str, float]] | None:
    """Return what scores the held-out images after each epoch; None where none are held out.

    Of people nobody trains on (``identity_disjoint``) it is retrieval, by the protocol's own draws. Of one image
    per training person (``published``) it is the share that the classifier on ``f`` names right, as in the papers
    that hold them out; it says nothing about people nobody trained on.
    """
    held_out = run.manifest.validation
    if held_out.empty:
        return None
    pixels = load_pixels(run.photographs, held_out, clip.image_size)
    side = clip.side_rows(held_out)
    identities = _people(run)
    rows = torch.tensor([identities.index(i) if i in identities else -1 for i in held_out["identity"]])

    def retrieval(model: ClipidModel) -> dict[str, float]:
        embedding = encode(clip, pixels, side, composer=model.composer).embedding
        if run.params.test_features == "after_neck":
            embedding = pass_neck(embedding, join_necks([head.norm.state_dict() for head in model.heads.values()]))
        embeddings = Embeddings(held_out["path"].tolist(), embedding)
        scores = evaluation.evaluate(embeddings, run.manifest, "validation").summary()
        return {"validation_rank1": scores["rank1"], "validation_map": scores["map"]}

    @torch.no_grad()
    def accuracy(model: ClipidModel) -> dict[str, float]:
        named = model.head(encode(clip, pixels, side).f.to(clip.device)).argmax(dim=1).cpu()
        return {"validation_accuracy": float((named == rows).float().mean())}

    return retrieval if run.manifest.validates_people else accuracy


def _save_every() -> float:
    """Seconds between two resume states: a minute, or what the environment says (tests of kills say 0)."""
    return float(os.environ.get("CLIPREID_SAVE_EVERY", MINUTE))


def _words(run: Run, form: str) -> list[str] | None:
    said = run.manifest.train, _people(run), run.params.dataset, run.params.noun or HAND, _list_aspects(run)
    return None if form == "learned" else describe_people(*said)


def _list_aspects(run: Run) -> list[str]:
    """Return the aspects of the training images, ascending, if there are several."""
    found = sorted(run.manifest.train["aspect"].unique())
    return found if len(found) > 1 else []


def _people(run: Run) -> list[int]:
    """Return the training people in the order of the label map."""
    return map_labels(run.manifest.train["identity"])[0]


def _hash_names(run: Run) -> str:
    """Hash the names of the training people where a data set gives any: a folder's numbers are its own."""
    train = run.manifest.train
    names = sorted({*train["name"].dropna().astype(str)}) if "name" in train else []
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _prompts_sha(run: Run) -> str | None:
    return file_sha(run.prompts) if run.params.variant == "clipid" else None
