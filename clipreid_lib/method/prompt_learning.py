"""Stage 2a, notebook 02: prompts that become each identity's textual anchor."""

from functools import partial
from typing import cast

import pandas as pd
import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_csv
from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.method import schedules
from clipreid_lib.method.contrastive_loss import info_nce, supervised_contrastive
from clipreid_lib.method.prompt_bank import PromptBank, scaled_pair, text_logits
from clipreid_lib.method.prompt_words import words_of
from clipreid_lib.method.training_loop import Loop
from clipreid_lib.method.training_set import load_training_set
from clipreid_lib.params.recipes import recipe_of
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import features

WEIGHT_DECAY = 1e-4  # Adam's L2 term, in CLIP-ReID's both families


def learn_prompts(run: Run, clip: Backbone) -> tuple[PromptBank, pd.DataFrame]:
    """With both encoders frozen, learn the prompt tokens by text-image contrast.

    Image features are computed once. Each step contrasts a batch of them with their identities' text features in
    both directions (CLIP-ReID, arXiv 2211.13977, stage one), each sentence encoded once per step however many
    images its identity has there. Writes ``prompts.safetensors``.

    Args:
        run: the run.
        clip: its frozen backbone, from :func:`clipreid_lib.runs.stages.load_backbone`.

    Returns:
        The prompt bank and the training log (for ``fixed`` prompts one row, as there is nothing to learn).
    """
    params, data = run.params, load_training_set(run, clip)
    image = features.encode(clip, data.pixels).f_proj.to(clip.device)  # (N, embed_dim); side vectors know nothing yet
    rows = data.rows  # stays on the CPU, where telling who stands in a batch makes no GPU wait
    torch.manual_seed(stable_seed("prompt bank", params.seed))
    bank = _bank(run, clip, data.identities, params.num_prompts, params.prompt_dim, params.prompt_form).to(clip.device)
    compared = "dot" if params.prompt_loss == "supcon" else "cosine"

    def losses(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        distinct, place = rows[batch].unique(return_inverse=True)
        text = bank.text_features(clip, distinct.to(clip.device))[place.to(clip.device)]  # (B, embed_dim)
        images, texts = scaled_pair(image[batch.to(clip.device)], text, compared, clip.logit_scale)
        ids = rows[batch].to(clip.device)
        if params.prompt_loss == "infonce":
            return {"image_to_text": info_nce(images, texts, ids), "text_to_image": info_nce(texts, images, ids)}
        return {
            "image_to_text": supervised_contrastive(images, texts, ids, ids),
            "text_to_image": supervised_contrastive(texts, images, ids, ids),
        }

    def measure() -> dict[str, float]:
        nearest = text_logits(image, bank.anchors(clip), compared, clip.logit_scale).argmax(dim=1)
        return {"text_accuracy": float((nearest.cpu() == rows).float().mean())}

    if params.prompt_form == "fixed":
        log = pd.DataFrame([{"epoch": 0, **measure()}])
        write_csv(run.logs / "prompts.csv", log)
    else:
        group = {"params": list(bank.parameters()), "lr": params.prompt_lr, "peak": params.prompt_lr}
        loop = Loop(
            name="prompts",
            epochs=cast(int, params.prompt_epochs),  # no null is left in a run's params
            seed=params.seed,
            learner=bank,
            optimiser=torch.optim.Adam([group], weight_decay=WEIGHT_DECAY),
            rate=partial(schedules.prompt_rate, warm_up=recipe_of(params.model).prompt_warm_up),
            batches=lambda epoch: torch.randperm(len(rows)).split(params.batch_size),
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
            "prompt_form": params.prompt_form,
            "sentences": bank.texts,
            "token_ids": bank.sentences.tokens.tolist(),
            "num_prompts": params.num_prompts,
            "prompt_dim": params.prompt_dim,
            **run.facts(),
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
    wanted = {**backbone.describe(clip), "resize": run.params.resize, "identities": people}
    checkpoints.require(run.prompts, facts, wanted)
    bank = _bank(run, clip, people, facts["num_prompts"], facts["prompt_dim"], facts["prompt_form"])
    checkpoints.require(run.prompts, facts, {"sentences": bank.texts})
    bank.load_state_dict(tensors)
    return bank.requires_grad_(False).to(clip.device)


def _bank(run: Run, clip: Backbone, people: list[int], number: int, dim: int | None, form: str) -> PromptBank:
    words = None if form == "learned" else words_of(run.manifest.train, people, run.params.dataset)
    return PromptBank(clip, people, number, dim, form, words)
