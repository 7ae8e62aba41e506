"""Stages 1 and 2b, notebook 03: train the image encoder and its heads; the variant says with which losses."""

from collections.abc import Callable, Iterable
from typing import cast

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from clipreid_lib.base import checkpoints
from clipreid_lib.base.files import file_sha
from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import normalise
from clipreid_lib.method import augment, sampler, schedules
from clipreid_lib.method.clipid_model import ClipidModel, Identified
from clipreid_lib.method.contrastive_loss import supervised_contrastive
from clipreid_lib.method.inversion import Inversion
from clipreid_lib.method.prompt_bank import scaled_pair, text_logits
from clipreid_lib.method.prompt_learning import load_prompts
from clipreid_lib.method.training_loop import Loop, number_format
from clipreid_lib.method.training_set import load_training_set
from clipreid_lib.method.triplet_loss import batch_hard_triplet
from clipreid_lib.params.recipes import recipe_of
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import evaluation, features

TRIPLET = ("clipid", "clipid_no_text")  # variants that pull positives together
Terms = dict[str, torch.Tensor]


def finetune_encoder(run: Run, clip: Backbone) -> tuple[ClipidModel, pd.DataFrame]:
    """Train the image encoder.

    ============== ============= ======= ==========================================
    variant        identity CE   triplet text
    ============== ============= ======= ==========================================
    classifier     yes           no      no
    clipid_no_text yes           yes     no
    clipid         yes           yes     image-to-text CE to 2a's frozen anchors
    inversion      yes           no      contrast with a sentence made of the image
    ============== ============= ======= ==========================================

    Batches, augmentation, schedule and start are the same for all, so that they differ in their losses alone. The
    model computes in the params' precision, the losses in float32. The last epoch counts: nothing is chosen. Writes
    ``encoder.safetensors``.

    Args:
        run: the run.
        clip: its backbone, from :func:`clipreid_lib.runs.stages.load_backbone`; its image tower is trained in place.

    Returns:
        The model and the training log.
    """
    params, data, recipe = run.params, load_training_set(run, clip), recipe_of(run.params.model)
    # No null is left in a run's params.
    epochs, batch_size = cast(int, params.encoder_epochs), cast(int, params.batch_size)
    id_weight, weight_decay = cast(float, params.id_weight), cast(float, params.weight_decay)
    encoder_lr, head_lr = cast(float, params.encoder_lr), cast(float, params.head_lr)
    torch.manual_seed(stable_seed("heads", params.seed))
    model = ClipidModel(clip, len(data.identities)).to(clip.device)
    clip.set_checkpointing(params.checkpointing)
    text_terms, reader = _text(run, clip)
    spoil = augment.Augment(clip.image_size)
    number = number_format(params.precision, clip.device.type)
    half = torch.autocast(clip.device.type, number, enabled=number is not torch.float32)
    # On the device from the start: a few thousand images are a few hundred MB, and no step waits for a copy.
    pixels, rows = data.pixels.to(clip.device), data.rows.to(clip.device)
    sides = None if data.side is None else data.side.to(clip.device)

    def losses(batch: torch.Tensor) -> Terms:
        batch = batch.to(clip.device)
        labels, side = rows[batch], None if sides is None else sides[batch]
        with half:
            out = model(spoil(normalise(pixels[batch], *clip.normalisation)), side)
        out = out.exact()  # in half precision, cosines times CLIP's scale would be rounded to quarters
        terms = {"identity": id_weight * _sum(_ce(run, x, labels) for x in (out.logits, out.logits_proj))}
        if params.variant in TRIPLET:
            three = (out.features.f_last, out.features.f, out.features.f_proj)
            triplet = _sum(batch_hard_triplet(x, labels, params.triplet_margin) for x in three)
            terms["triplet"] = params.triplet_weight * triplet
        return terms | text_terms(out, labels)

    groups = model.parameter_groups(encoder_lr, head_lr, recipe.bias_factor)
    if reader is not None:
        groups.append({"params": list(reader.parameters()), "lr": head_lr, "peak": head_lr})
    loop = Loop(
        name="encoder",  # not the variant: all variants must see the same crops and erasures
        epochs=epochs,
        seed=params.seed,
        learner=model if reader is None else nn.ModuleList([model, reader]),
        optimiser=torch.optim.Adam(groups, weight_decay=weight_decay),
        rate=lambda epoch, epochs, peak: schedules.encoder_rate(epoch, epochs, peak, recipe.warm_start, recipe.steps),
        batches=lambda epoch: sampler.identity_batches(
            data.rows.numpy(), batch_size, params.images_per_identity, epoch, params.seed
        ),
        losses=losses,
        measure=_validation(run, model, data.identities),
        accumulate=params.accumulate,
        scaled=number is torch.float16,
    )
    parent = file_sha(run.prompts) if params.variant == "clipid" else None
    key = f"{params.run_id} {run.manifest.sha} {parent} {number}"
    log = loop.run(run.logs / "encoder.csv", run.models / "encoder.resume.pt", key)
    clip.set_checkpointing(False)
    tensors = {
        **{f"visual.{name}": value for name, value in clip.clip.visual.state_dict().items()},
        **{f"head.{name}": value for name, value in model.head.state_dict().items()},
        **{f"head_proj.{name}": value for name, value in model.head_proj.state_dict().items()},
    }
    if reader is not None:
        tensors |= {f"inversion.{name}": value for name, value in reader.network.state_dict().items()}
    checkpoints.save(
        run.models / "encoder.safetensors",
        tensors,
        {
            "kind": "encoder",
            **backbone.describe(clip),
            "identities": data.identities,
            "variant": params.variant,
            "prompts_sha": parent,
            "number_format": str(number).removeprefix("torch."),
            **run.facts(),
        },
    )
    return model, log


def _sum(losses: Iterable[torch.Tensor]) -> torch.Tensor:
    return cast(torch.Tensor, sum(losses))


def _ce(run: Run, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, rows, label_smoothing=run.params.label_smoothing)


def _text(run: Run, clip: Backbone) -> tuple[Callable[[Identified, torch.Tensor], Terms], Inversion | None]:
    """Return the variant's text loss, and the network that learns along with it if there is one."""
    params, scale = run.params, clip.logit_scale
    if params.variant == "clipid":
        anchors = load_prompts(run, clip).anchors(clip)  # (identities, embed_dim), frozen

        def towards_anchors(out: Identified, rows: torch.Tensor) -> Terms:
            logits = text_logits(out.features.f_proj, anchors, params.text_logits, scale)
            return {"image_to_text": params.text_weight * _ce(run, logits, rows)}

        return towards_anchors, None
    if params.variant == "inversion":
        reader = Inversion(clip).to(clip.device)

        def with_own_sentence(out: Identified, rows: torch.Tensor) -> Terms:
            with torch.random.fork_rng(devices=[]):  # its dropout must not change the crops that follow
                text = reader.text_features(clip, out.features.f_proj)
            images, texts = scaled_pair(out.features.f_proj, text, params.text_logits, scale)
            return {
                "image_to_text": params.text_weight * supervised_contrastive(images, texts, rows, rows),
                "text_to_image": params.text_weight * supervised_contrastive(texts, images, rows, rows),
            }

        return with_own_sentence, reader
    return lambda out, rows: {}, None


def _validation(run: Run, model: ClipidModel, identities: list[int]) -> Callable[[], dict[str, float]]:
    """Return what scores the held-out images after each epoch; nothing, where none are held out.

    Of people nobody trains on (``identity_disjoint``) it is retrieval, by the protocol's own draws. Of one image
    per training person (``published``) it is the share that the classifier on ``f`` names right, as in the papers
    that hold them out; it says nothing about people nobody trained on.
    """
    held_out, clip = run.manifest.validation, model.backbone
    if held_out.empty:
        return dict
    pixels = torch.from_numpy(run.photographs.load(held_out, clip.image_size))
    side = clip.side_rows(held_out)
    rows = torch.tensor([identities.index(i) if i in identities else -1 for i in held_out["identity"]])

    def retrieval() -> dict[str, float]:
        embeddings = features.Embeddings(held_out["path"].tolist(), features.encode(clip, pixels, side).embedding)
        scores = evaluation.evaluate(embeddings, run.manifest, "validation").summary()
        return {"validation_rank1": scores["rank1"], "validation_map": scores["map"]}

    @torch.no_grad()
    def accuracy() -> dict[str, float]:
        f = features.encode(clip, pixels, side).f.to(clip.device)
        named = model.head(f).argmax(dim=1).cpu()
        return {"validation_accuracy": float((named == rows).float().mean())}

    return retrieval if run.manifest.validates_people else accuracy
