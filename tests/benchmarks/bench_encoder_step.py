"""Stage 2b's own work against the bare step of the same model at the same batch.

Bare: forward, backward and optimiser step of image encoder and heads on a batch that lies ready. Ours: the training
loop as it runs, with sampling, normalising, augmentation, all losses, logging, and its share of the resume state that
is written after every epoch.
"""

import tempfile
import time
from unittest import mock

import torch
from rows import Row

from clipreid_lib.base import checkpoints
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import normalise
from clipreid_lib.method import encoder_finetune, prompt_learning, sampler
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.params import schema
from clipreid_lib.runs import stages
from clipreid_lib.runs.run import Run

AIM = 1.1  # times the bare step
EPOCHS, BATCH, PEOPLE = 4, 32, 8  # two steps per epoch: one takes some eight seconds on two cores
STEPS = 890 // BATCH  # of an epoch of 11k Hands, dorsal right: what shares one resume state
SETTINGS = {  # ViT-B-32 at 224: the smallest of the real sizes
    **{"model": "vitb32", "pretrained": "random", "variant": "clipid", "prompt_epochs": 1, "encoder_epochs": EPOCHS},
    **{"demo_people": 2 * PEOPLE, "demo_images": 8, "demo_sessions": 2, "draws": 1, "batch_size": BATCH},
    **{"device": "cpu"},
}


class Bare:
    """Training steps and nothing else, on one batch in memory."""

    def __init__(self, clip: Backbone) -> None:
        self.model = ClipidModel(clip, PEOPLE)
        self.optimiser = torch.optim.Adam(self.model.parameter_groups(5e-6, 5e-5))
        pixels = torch.randint(0, 255, (BATCH, 3, *clip.image_size), dtype=torch.uint8)
        self.images, self.people = normalise(pixels, *clip.normalisation), torch.arange(BATCH) % PEOPLE
        self.model.train()

    def steps(self, number: int) -> float:
        """Return seconds each."""
        began = time.perf_counter()
        for _ in range(number):
            out = self.model(self.images)
            loss = torch.nn.functional.cross_entropy(out.logits, self.people) + out.features.f_proj.square().mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        return (time.perf_counter() - began) / number


def rows() -> list[Row]:
    """Train some epochs, and between them do as many bare steps as each has."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Run.open(schema.validated(SETTINGS | {"outputs_root": scratch}))
        prompt_learning.learn_prompts(run, stages.load_backbone(run))
        bare = Bare(stages.load_backbone(run))
        bare.steps(1)  # warm up
        began, pairs, writing = [], [], []
        cut, save = sampler.identity_batches, checkpoints.save_resume

        def first(*given):  # what an epoch begins with
            began.append(time.perf_counter())
            batches = cut(*given)
            began.append(len(batches))
            return batches

        def last(*given):  # what it ends with
            steps, start = began.pop(), began.pop()
            trained = time.perf_counter()
            save(*given)
            writing.append(time.perf_counter() - trained)
            pairs.append((bare.steps(steps), (trained - start) / steps + writing[-1] / STEPS))

        begins = mock.patch.object(sampler, "identity_batches", first)
        with begins, mock.patch.object(checkpoints, "save_resume", last):
            encoder_finetune.finetune_encoder(run, stages.load_backbone(run))
    state = f"writing the resume state takes {sorted(writing)[len(writing) // 2]:.1f} s per epoch"
    return [
        Row(
            "2b step, ViT-B-32 at 224",
            "forward, backward, optimiser",
            "the training loop",
            pairs[1:],  # the first epoch warms up
            AIM,
            about="times",
            note=f"batches of {BATCH}; {state}, shared out to {STEPS} steps",
        )
    ]
