"""Stages 1 and 2b, notebook 03: train the image encoder and its heads by a sum of loss terms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import nn

from clipreid_lib.base.accelerator import resolve_precision
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.device import FORMATS, allow_tf32, explain_out_of_memory
from clipreid_lib.clip.feed import Images, feed, keep_on_device
from clipreid_lib.method import few_weights, sampler, schedules
from clipreid_lib.method.augment import Augment, enlarge
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.inversion import InversionLoss
from clipreid_lib.method.labels import Labels, map_labels
from clipreid_lib.method.loss_terms import Term, describe_loss, weigh_terms
from clipreid_lib.method.promptsg import Composer
from clipreid_lib.method.resume import Keep
from clipreid_lib.method.settings_check import check_images, check_settings
from clipreid_lib.method.training_loop import Loop


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of stages 1 and 2b.

    The defaults of ``epochs``, ``lr`` and ``steps`` are CLIP-ReID's for ViTs (arXiv 2211.13977, configs/person). Many
    others differ; ``params/published/README.md`` lists each difference with its reason.

    Attributes:
        epochs: length.
        lr: peak rate of the image encoder, per step of Adam.
        head_lr: peak rate of the heads, of the composer, and of losses that learn; ten times CLIP-ReID's, as
            CLIP-HandID's.
        compose: ``word`` composes features as PromptSG does, ``fixed`` as its control without a word, ``none`` not at
            all; see :mod:`clipreid_lib.method.promptsg`.
        noun: end of the composer's sentence.
        schedule: of the rates: ``clip_reid`` or ``clip_handid``.
        warm_start: share of the peak rate that warm-up starts from, in ``clip_reid``.
        steps: in ``clip_reid``: shares of the epochs after which the rate falls to a tenth.
        batch_size: images per batch.
        images_per_identity: K of the P x K batches.
        sampler: ``every_image`` uses all images in every epoch, ``published`` draws as CLIP-ReID does, ``shuffled``
            as CLIP-HandID does.
        flip: whether every other image is mirrored, as the papers do.
        padding: ``edge``, ``black`` (CLIP-ReID) or ``enlarge`` (CLIP-HandID), as
            :class:`~clipreid_lib.method.augment.Augment` says.
        erasing: with ``mean``, ``noise`` (CLIP-ReID) or ``none`` (CLIP-HandID).
        weight_decay: Adam's L2 term.
        bias_factor: how much faster biases learn than weights.
        accumulate: batches whose gradients are averaged before each step.
        checkpointing: recompute activations instead of keeping them: less memory, more time, the same gradients.
        precision: ``auto``, ``float32``, ``tf32``, ``bf16`` or ``fp16`` of the image tower; heads and losses are
            float32.
        seed: of everything random.
        train: which weights of the image tower learn: ``all``, ``last-N``, ``norms`` or ``lora-R``, as
            :func:`~clipreid_lib.method.few_weights.choose` says. The two latter need a larger ``lr``.

    Raises:
        UserError: a word that is not allowed, a count below one, a rate that is not above zero.
    """

    epochs: int = 60
    lr: float = 5e-6
    head_lr: float = 5e-5
    schedule: str = "clip_reid"
    warm_start: float = 0.1
    steps: tuple[float, float] = (30 / 60, 50 / 60)
    batch_size: int = 64
    images_per_identity: int = 4
    sampler: str = "every_image"
    flip: bool = False
    padding: str = "edge"
    erasing: str = "mean"
    weight_decay: float = 1e-4
    bias_factor: float = 2.0
    compose: str = "none"
    noun: str = "hand."
    accumulate: int = 1
    checkpointing: bool = False
    precision: str = "auto"
    seed: int = 0
    train: str = "all"

    def __post_init__(self) -> None:
        """Refuse what is not allowed."""
        check_settings(self)


def finetune(
    clip: Backbone,
    images: Images,
    labels: Labels,
    terms: dict[str, Term],
    settings: EncoderSettings | None = None,
    *,
    side: torch.Tensor | None = None,
    validate: Callable[[ClipidModel], dict[str, float]] | None = None,
    keep: Keep | None = None,
    watch: Callable[[str], None] | None = None,
) -> tuple[ClipidModel, pd.DataFrame]:
    """Train the image encoder.

    Whatever the terms are, batches, augmentation, schedule and start are the same for one seed, so that two trainings
    differ in their losses alone. The model computes in the given precision, the losses in float32. The last epoch
    counts: nothing is chosen.

    Args:
        clip: a backbone, from :func:`clipreid_lib.clip.backbone.load`; its image tower is trained in place, and
            low-rank changes of ``lora-R`` are part of its weights when this returns.
        images: (N, 3, H, W) uint8 of the backbone's ``image_size``, or, with padding ``enlarge``, as large as
            :func:`~clipreid_lib.method.augment.enlarge` says: a tensor, or anything that is indexed like one.
        labels: (N,) each image's identity, numbers or text.
        terms: the losses by name, each with its weight; see :mod:`clipreid_lib.method.loss_terms`.
        settings: epochs, rates, batches; None takes the defaults of :class:`EncoderSettings`.
        side: (N,) each image's row of side information, from the backbone's ``side_rows``; None adds none.
        validate: called with the model after each epoch, for further columns of the log.
        keep: where the log and the resume state go; None keeps nothing.
        watch: called with one line of text per epoch; None prints the line.

    Returns:
        The model and the training log, a column per term.

    Raises:
        UserError: the loss stops being a number; a precision that the device has not; too few people or images for
            one batch of the sampler; a ``train`` that is not allowed or asks for more blocks than the tower has.
        ValueError: no term; images and labels differ in number; images are not uint8 of the size wanted.
    """
    settings = settings or EncoderSettings()
    identities, rows = map_labels(labels)
    if len(rows) != len(images) or not terms:
        raise ValueError(f"{len(images)} images, {len(rows)} labels and {len(terms)} loss terms")
    check_images(images, enlarge(clip.image_size) if settings.padding == "enlarge" else clip.image_size)
    torch.manual_seed(stable_seed("heads", settings.seed))
    model = ClipidModel(clip, len(identities)).to(clip.device)
    if settings.compose != "none":  # after the heads, which are thus drawn alike
        model.add_composer(Composer(clip, settings.compose, settings.noun))
    learning = [term.loss for term in terms.values() if isinstance(term.loss, nn.Module)]
    for loss in learning:
        if isinstance(loss, InversionLoss):  # its network starts from this seed too, whatever was drawn before
            loss.build(clip)
        loss.to(clip.device)
    device = clip.device
    precision = resolve_precision(settings.precision, str(device))
    (mean, std), flip = clip.normalisation, settings.flip
    augment = Augment(clip.image_size, mean, std, flip=flip, padding=settings.padding, erase=settings.erasing)
    pixels, targets = keep_on_device(images, device), rows.to(device)
    sides = None if side is None else side.to(device)

    def losses(batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        row, seen = batch  # (B,) of the images, (B, 3, H, W) uint8
        out = model(augment(seen), None if sides is None else sides[row], FORMATS[precision])
        with allow_tf32(False):  # rounded to ten bits, cosines times CLIP's scale would be rounded to quarters
            return weigh_terms(terms, out, targets[row])

    def sample(epoch: int, how: str = settings.sampler) -> list[torch.Tensor]:
        cut = settings.batch_size, settings.images_per_identity
        return sampler.SAMPLERS[how](rows.numpy(), *cut, epoch, settings.seed)

    def rate(epoch: int, epochs: int, peak: float) -> float:
        if settings.schedule == "clip_handid":
            return schedules.handid_rate(epoch, epochs, peak)
        return schedules.encoder_rate(epoch, epochs, peak, settings.warm_start, settings.steps)

    steps, published = (settings.epochs * len(sample(0, how)) for how in (settings.sampler, "published"))
    if not steps:
        wanted = f"{settings.batch_size} images of {settings.batch_size // settings.images_per_identity} people"
        has = f"there are {len(rows)} of {len(identities)}"
        raise UserError(f"sampler: {settings.sampler} cannot fill a batch ({wanted}), {has}; use every_image")
    steps = -(-steps // settings.accumulate)
    (watch or print)(f"encoder: about {steps:,} optimiser steps (CLIP-ReID's sampler would take {published:,})")
    visual = clip.clip.visual
    learned, weights = few_weights.prepare(visual, settings.train, stable_seed("low-rank changes", settings.seed))
    if settings.train != "all":
        told = f"{learned:,} of {weights:,} weights of the image tower are trained"
        (watch or print)(f"encoder: {told} ({settings.train})")
    groups = model.parameter_groups(settings.lr, settings.head_lr, settings.bias_factor)
    for loss in learning:
        groups.append({"params": list(loss.parameters()), "lr": settings.head_lr, "peak": settings.head_lr})
    loop = Loop(
        name="encoder",  # whatever the terms are: all must see the same crops and erasures
        epochs=settings.epochs,
        seed=settings.seed,
        learner=nn.ModuleList([model, *learning]) if learning else model,
        optimiser=torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=device.type == "cuda"),
        rate=rate,
        batches=sample,
        fetch=partial(feed, pixels, device=device),
        losses=losses,
        measure=lambda: validate(model) if validate else {},
        accumulate=settings.accumulate,
        number=precision,
    )
    said = {name: (term.weight, describe_loss(term.loss)) for name, term in terms.items()}
    clip.set_checkpointing(settings.checkpointing)
    try:
        with allow_tf32(precision == "tf32"):
            log = loop.run(keep.for_settings(settings, said) if keep else None, watch)
    except torch.OutOfMemoryError as error:
        raise explain_out_of_memory(device, settings.batch_size, clip.image_size) from error
    finally:
        clip.set_checkpointing(False)
        few_weights.merge(visual)
    return model, log
