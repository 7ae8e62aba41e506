"""The ladder's trained stages: 1 classifier, 2a prompts, 2b image encoder (with and without text)."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib import augment, backbone, checkpoints, evaluation, features, sampler, schedules
from clipreid_lib.backbone import Backbone
from clipreid_lib.clipid_model import ClipidModel
from clipreid_lib.contrastive_loss import supervised_contrastive
from clipreid_lib.errors import UserError
from clipreid_lib.files import file_sha
from clipreid_lib.prompt_bank import PromptBank, scaled_pair, text_logits
from clipreid_lib.runs import Run, choose_device
from clipreid_lib.seeding import stable_seed
from clipreid_lib.training import Loop
from clipreid_lib.triplet_loss import batch_hard_triplet

WEIGHT_DECAY = 1e-4  # Adam's L2 term in both of CLIP-ReID's ViT stages


@dataclass(frozen=True)
class TrainingSet:
    """The training images of a run, in memory.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        rows: (N,) each image's row in ``identities``.
        identities: the people, ascending; the label map of prompts and heads.
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    identities: list[int]


def load_backbone(run: Run) -> Backbone:
    """Load the run's pretrained CLIP onto its device, frozen."""
    params = run.params
    clip = backbone.load(params.model, params.weights or params.pretrained, params.image_size)
    return clip.to(choose_device(params.device))


def load_training_set(run: Run, size: int) -> TrainingSet:
    """Decode the run's training images."""
    train = run.manifest.train
    identities = sorted(train["identity"].unique().tolist())
    row = {identity: index for index, identity in enumerate(identities)}
    pixels = torch.from_numpy(run.photographs.load(train, size))
    return TrainingSet(pixels, torch.tensor([row[i] for i in train["identity"]]), identities)


def learn_prompts(run: Run, clip: Backbone) -> tuple[PromptBank, pd.DataFrame]:
    """Stage 2a: with both encoders frozen, learn each identity's prompt tokens by text-image contrast.

    Image features are computed once. Each step contrasts a batch of them with their identities' text features
    in both directions (CLIP-ReID, arXiv 2211.13977, stage one). Writes ``prompts.safetensors``.

    Args:
        run: the run.
        clip: its frozen backbone, from :func:`load_backbone`.

    Returns:
        The prompt bank and the training log.
    """
    params, data = run.params, load_training_set(run, clip.image_size)
    width = clip.clip.visual.output_dim
    image = features.encode(clip, data.pixels)[:, -width:].to(clip.device)  # f_proj (N, embed_dim)
    rows = data.rows.to(clip.device)
    torch.manual_seed(stable_seed("prompt bank", params.seed))
    bank = PromptBank(clip, data.identities, params.num_prompts, params.prompt_dim).to(clip.device)

    def losses(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        distinct, place = rows[batch].unique(return_inverse=True)
        text = bank.text_features(clip, distinct)[place]  # (B, embed_dim), each sentence encoded once
        anchors, contrasts = scaled_pair(image[batch], text, params.text_logits, clip.logit_scale)
        ids = rows[batch]
        return {
            "image_to_text": supervised_contrastive(anchors, contrasts, ids, ids),
            "text_to_image": supervised_contrastive(contrasts, anchors, ids, ids),
        }

    def measure() -> dict[str, float]:
        nearest = text_logits(image, bank.anchors(clip), params.text_logits, clip.logit_scale).argmax(dim=1)
        return {"text_accuracy": float((nearest == rows).float().mean())}

    group = {"params": list(bank.parameters()), "lr": params.prompt_lr, "peak": params.prompt_lr}
    loop = Loop(
        name="prompts",
        epochs=params.prompt_epochs,
        seed=params.seed,
        learner=bank,
        optimiser=torch.optim.Adam([group], weight_decay=WEIGHT_DECAY),
        rate=schedules.prompt_rate,
        batches=lambda epoch: torch.randperm(len(rows)).to(rows.device).split(params.batch_size),
        losses=losses,
        measure=measure,
    )
    key = f"{params.run_id} {run.manifest.sha}"
    log = loop.run(run.logs / "prompts.csv", run.models / "prompts.resume.pt", key)
    checkpoints.save(
        run.models / "prompts.safetensors",
        bank.state_dict(),
        {
            "kind": "prompts",
            **backbone.describe(clip),
            "identities": bank.identities,
            "template": bank.template,
            "num_prompts": params.num_prompts,
            "prompt_dim": params.prompt_dim,
            "seed": params.seed,
            "manifest_sha": run.manifest.sha,
        },
    )
    return bank, log


def load_prompts(run: Run, clip: Backbone) -> PromptBank:
    """Load the prompts stage 2b is to be trained towards, checked against this run's people and backbone.

    Raises:
        UserError: there are none, or they were learnt for other people or another backbone.
    """
    if not run.prompts.exists():
        raise UserError(f"{run.prompts}: no learned prompts there; run notebook 02 with the same params first")
    tensors, facts = checkpoints.load(run.prompts, "prompts")
    people = sorted(run.manifest.train["identity"].unique().tolist())
    checkpoints.require(run.prompts, facts, {**backbone.describe(clip), "identities": people})
    bank = PromptBank(clip, people, facts["num_prompts"], facts["prompt_dim"])
    bank.load_state_dict(tensors)
    return bank.requires_grad_(False).to(clip.device)


def finetune_encoder(run: Run, clip: Backbone) -> tuple[ClipidModel, pd.DataFrame]:
    """Stages 1 and 2b: train the image encoder and its heads; the variant says with which losses.

    ============== ============= ======= ====================================
    variant        identity CE   triplet image-to-text CE to frozen anchors
    ============== ============= ======= ====================================
    classifier     yes           no      no
    clipid_no_text yes           yes     no
    clipid         yes           yes     yes
    ============== ============= ======= ====================================

    Batches, augmentation, schedule and start are the same for all three, so that they differ in their losses
    alone. The last epoch counts: nothing is chosen. Writes ``encoder.safetensors``.

    Args:
        run: the run.
        clip: its backbone, from :func:`load_backbone`; its image tower is trained in place.

    Returns:
        The model and the training log.
    """
    params, data = run.params, load_training_set(run, clip.image_size)
    anchors = load_prompts(run, clip).anchors(clip) if params.variant == "clipid" else None
    torch.manual_seed(stable_seed("heads", params.seed))
    model = ClipidModel(clip, len(data.identities)).to(clip.device)
    spoil = augment.Augment(clip.image_size)
    smoothing = params.label_smoothing

    def losses(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = data.rows[batch].to(clip.device)
        pixels = augment.normalise(data.pixels[batch].to(clip.device), *clip.normalisation)
        out = model(spoil(pixels))
        both = (out.logits, out.logits_proj)
        identity = sum(functional.cross_entropy(x, rows, label_smoothing=smoothing) for x in both)
        terms = {"identity": params.id_weight * identity}
        if params.variant != "classifier":
            three = (out.features.f_last, out.features.f, out.features.f_proj)
            triplet = sum(batch_hard_triplet(x, rows, params.triplet_margin) for x in three)
            terms["triplet"] = params.triplet_weight * triplet
        if anchors is not None:
            logits = text_logits(out.features.f_proj, anchors, params.text_logits, clip.logit_scale)
            text = functional.cross_entropy(logits, rows, label_smoothing=smoothing)
            terms["image_to_text"] = params.text_weight * text
        return terms

    loop = Loop(
        name="encoder",  # not the variant: all variants must see the same crops and erasures
        epochs=params.encoder_epochs,
        seed=params.seed,
        learner=model,
        optimiser=torch.optim.Adam(
            model.parameter_groups(params.encoder_lr, params.head_lr), weight_decay=WEIGHT_DECAY
        ),
        rate=schedules.encoder_rate,
        batches=lambda epoch: sampler.identity_batches(
            data.rows.numpy(), params.batch_size, params.images_per_identity, epoch, params.seed
        ),
        losses=losses,
        measure=_validation(run, model, data.identities),
    )
    parent = file_sha(run.prompts) if anchors is not None else None
    key = f"{params.run_id} {run.manifest.sha} {parent}"
    log = loop.run(run.logs / "encoder.csv", run.models / "encoder.resume.pt", key)
    checkpoints.save(
        run.models / "encoder.safetensors",
        {
            **{f"visual.{name}": value for name, value in clip.clip.visual.state_dict().items()},
            **{f"head.{name}": value for name, value in model.head.state_dict().items()},
            **{f"head_proj.{name}": value for name, value in model.head_proj.state_dict().items()},
        },
        {
            "kind": "encoder",
            **backbone.describe(clip),
            "identities": data.identities,
            "variant": params.variant,
            "seed": params.seed,
            "manifest_sha": run.manifest.sha,
            "prompts_sha": parent,
        },
    )
    return model, log


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
    rows = torch.tensor([identities.index(i) if i in identities else -1 for i in held_out["identity"]])

    def retrieval() -> dict[str, float]:
        embeddings = features.Embeddings(held_out["path"].tolist(), features.encode(clip, pixels))
        scores = evaluation.evaluate(embeddings, run.manifest, "validation").summary()
        return {"validation_rank1": scores["rank1"], "validation_map": scores["map"]}

    @torch.no_grad()
    def accuracy() -> dict[str, float]:
        named = [
            model(augment.normalise(part.to(clip.device), *clip.normalisation)).logits.argmax(dim=1).cpu()
            for part in pixels.split(128)
        ]
        return {"validation_accuracy": float((torch.cat(named) == rows).float().mean())}

    return retrieval if run.manifest.validates_people else accuracy


@dataclass(frozen=True)
class Trained:
    """A backbone as a run's last stage left it, and the hash (or tag) of the weights that says so."""

    backbone: Backbone
    sha: str


def load_trained(run: Run) -> Trained:
    """Load the backbone as the run's last stage left it.

    A frozen run and a run that only learns prompts leave the image encoder as it was pretrained.

    Raises:
        UserError: the encoder was not trained yet, or its checkpoint belongs to another backbone or data.
    """
    clip = load_backbone(run)
    if "03_encoder_finetune" not in run.params.notebooks:
        return Trained(clip, backbone.describe(clip)["pretrained"])
    path = run.models / "encoder.safetensors"
    if not path.exists():
        raise UserError(f"{path}: no trained encoder there; run notebook 03 with the same params first")
    tensors, facts = checkpoints.load(path, "encoder")
    wanted = {**backbone.describe(clip), "variant": run.params.variant, "manifest_sha": run.manifest.sha}
    checkpoints.require(path, facts, wanted)
    visual = {n.removeprefix("visual."): t for n, t in tensors.items() if n.startswith("visual.")}
    clip.clip.visual.load_state_dict(visual)
    return Trained(clip, file_sha(path))
