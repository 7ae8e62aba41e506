"""Stage 2a, notebook 02: prompts that become each identity's textual anchor."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch

from clipreid_lib.base.files import write_csv
from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.device import allow_tf32, move
from clipreid_lib.clip.encode import encode
from clipreid_lib.clip.feed import Images
from clipreid_lib.method import schedules
from clipreid_lib.method.contrastive_loss import contrast_both_ways, info_nce
from clipreid_lib.method.labels import Labels, map_labels
from clipreid_lib.method.prompt_bank import PromptBank, scale_pair, text_logits
from clipreid_lib.method.resume import Keep
from clipreid_lib.method.settings_check import check_images, check_settings
from clipreid_lib.method.training_loop import Loop

WEIGHT_DECAY = 1e-4  # Adam's L2 term, in CLIP-ReID's both families


@dataclass(frozen=True)
class PromptSettings:
    """Settings of stage 2a.

    The defaults of ``epochs``, ``lr`` and ``warm_up`` are CLIP-ReID's for ViTs (arXiv 2211.13977, configs/person).
    ``noun`` and ``logits`` differ; ``params/published/README.md`` lists each difference with its reason.

    Attributes:
        epochs: length.
        lr: peak rate of Adam, per step.
        warm_up: share of the epochs that warms up.
        batch_size: images per step.
        num_prompts: learned tokens per sentence.
        prompt_dim: width of a token's code; None learns at the text width itself.
        noun: end of ``learned`` sentences; ``person.`` in CLIP-ReID.
        form: ``learned``, ``shared`` or ``fixed``, as :class:`~clipreid_lib.method.prompt_bank.PromptBank` says.
        loss: ``supervised`` has all images of a person as positives, ``infonce`` an image's own pair alone.
        logits: ``cosine`` (times CLIP's scale, whatever a backbone's norms are) or ``dot`` (as published).
        seed: of everything random.

    Raises:
        UserError: a word that is not allowed, a count below one, a rate that is not above zero.
    """

    epochs: int = 120
    lr: float = 3.5e-4
    warm_up: float = 5 / 120
    batch_size: int = 64
    num_prompts: int = 4
    prompt_dim: int | None = None
    noun: str = "hand."
    form: str = "learned"
    loss: str = "supervised"
    logits: str = "cosine"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not allowed."""
        check_settings(self)


def learn_prompts(
    clip: Backbone,
    images: Images,
    labels: Labels,
    settings: PromptSettings | None = None,
    *,
    words: Sequence[str] | None = None,
    aspects: Sequence[str] | None = None,
    keep: Keep | None = None,
    watch: Callable[[str], None] | None = None,
) -> tuple[PromptBank, pd.DataFrame]:
    """With both encoders frozen, learn the prompt tokens by text-image contrast.

    Image features are computed once. Each step contrasts a batch of them with their identities' text features in
    both directions (CLIP-ReID, arXiv 2211.13977, stage one), each sentence encoded once per step however many
    images it has there. With several aspects, images of an identity are right answers to the sentence of their own
    aspect alone.

    Args:
        clip: a frozen backbone, from :func:`clipreid_lib.clip.backbone.load`; nothing of it is changed.
        images: (N, 3, H, W) uint8 of the backbone's ``image_size``: a tensor, or anything that is indexed like one.
        labels: (N,) each image's identity, numbers or text.
        settings: epochs, rate, tokens; None takes the defaults of :class:`PromptSettings`.
        words: what ``shared`` and ``fixed`` sentences say of each identity, in ascending order of identities.
        aspects: (N,) each image's aspect, where there are several: each identity then has a sentence for each.
        keep: where the log and the resume state go; None keeps nothing.
        watch: called with one line of text per epoch; None prints the line.

    Returns:
        The prompt bank and the training log (for ``fixed`` prompts one row, as there is nothing to learn).

    Raises:
        UserError: the tokens do not fit the text tower's context; the loss stops being a number.
        ValueError: images and labels differ in number; images are not uint8 of the backbone's size; words are needed
            and missing.
    """
    settings = settings or PromptSettings()
    identities, rows = map_labels(labels)  # (N,)
    if len(rows) != len(images):
        raise ValueError(f"{len(images)} images and {len(rows)} labels")
    check_images(images, clip.image_size)
    # Side vectors are not trained yet, so the images are encoded without them.
    image = encode(clip, images).in_text_space.to(clip.device)  # (N, embed_dim)
    torch.manual_seed(stable_seed("prompt bank", settings.seed))
    said = None if words is None else list(words)
    shape = settings.num_prompts, settings.prompt_dim, settings.form
    shown = [] if aspects is None else list(aspects)
    if shown and len(shown) != len(images):
        raise ValueError(f"{len(images)} images and {len(shown)} aspects")
    several = sorted(set(shown))
    bank = PromptBank(clip, identities, *shape, said, settings.noun, several).to(clip.device)
    if shown:
        rows = rows * bank.each + torch.tensor([several.index(aspect) for aspect in shown])  # (N,) the image's sentence
    scale = clip.logit_scale

    def losses(batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        chosen, ids, distinct, place = batch  # (B,) images, their sentences; (b,) sentences once each; (B,) which
        text = bank.text_features(clip, distinct)[place]  # (B, embed_dim)
        if settings.loss == "infonce":
            ours, theirs = scale_pair(image[chosen], text, settings.logits, scale)
            return {"image_to_text": info_nce(ours, theirs, ids), "text_to_image": info_nce(theirs, ours, ids)}
        return contrast_both_ways(image[chosen], text, ids, settings.logits, scale)

    def fetch(batches: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
        parts = [(part, rows[part], *rows[part].unique(return_inverse=True)) for part in batches]
        lengths = [len(each) for part in parts for each in part]
        # One copy for the whole epoch: each would be a wait. Who is in a batch is told on the CPU.
        moved = iter(move(torch.cat([each for part in parts for each in part]), clip.device).split(lengths))
        return zip(moved, moved, moved, moved, strict=True)

    def measure() -> dict[str, float]:
        nearest = text_logits(image, bank.anchors(clip), settings.logits, scale).argmax(dim=1)  # (N,)
        return {"text_accuracy": float((nearest.cpu() // bank.each == rows // bank.each).float().mean())}

    if settings.form == "fixed":
        log = pd.DataFrame([{"epoch": 0, **measure()}])
        if keep and keep.log:
            write_csv(keep.log, log)
        return bank, log
    group = {"params": list(bank.parameters()), "lr": settings.lr, "peak": settings.lr}
    loop = Loop(
        name="prompts",
        epochs=settings.epochs,
        seed=settings.seed,
        learner=bank,
        optimiser=torch.optim.Adam([group], weight_decay=WEIGHT_DECAY, fused=clip.device.type == "cuda"),
        rate=partial(schedules.prompt_rate, warm_up=settings.warm_up),
        batches=lambda epoch: torch.randperm(len(rows)).split(settings.batch_size),
        losses=losses,
        measure=measure,
        fetch=fetch,
    )
    with allow_tf32(False):  # rounded to ten bits, cosines times CLIP's scale would be rounded to quarters
        return bank, loop.run(keep.for_settings(settings) if keep else None, watch)
