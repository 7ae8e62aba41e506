"""Stage 2b's own work against the bare step of the same model at the same batch.

Bare: forward, backward and optimiser step of image encoder and heads on a batch that lies ready. Ours: the training
loop as it runs, with sampling, normalising, augmentation, all losses and logging. The resume state is written by a
thread, at most once a minute; the note says how large it is.
"""

import tempfile
import time
from pathlib import Path

import torch
from rows import Row

from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import normalise
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.loss_terms import AnchorLoss, IdentityLoss, Term, TripletLoss
from clipreid_lib.method.prompt_learning import PromptSettings, learn_prompts
from clipreid_lib.method.resume import Keep

AIM = 1.1  # times the bare step
EPOCHS, BATCH, PEOPLE = 4, 32, 8  # two steps per epoch: one takes some eight seconds on two cores


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
    clip = backbone.load("vitb32", "random")
    images = torch.randint(0, 255, (2 * BATCH, 3, *clip.image_size), dtype=torch.uint8)
    labels = [number % PEOPLE for number in range(len(images))]
    bank, _ = learn_prompts(clip, images, labels, PromptSettings(epochs=1, batch_size=BATCH))
    terms = {
        "identity": Term(0.25, IdentityLoss()),
        "triplet": Term(1.0, TripletLoss()),
        "image_to_text": Term(1.0, AnchorLoss(bank.anchors(clip), clip.logit_scale)),
    }
    bare = Bare(backbone.load("vitb32", "random"))
    bare.steps(1)  # warm up
    pairs, each, began = [], len(images) // BATCH, [time.perf_counter()]

    def compare(_: ClipidModel) -> dict[str, float]:
        """Do, after each epoch, as many bare steps."""
        ours = (time.perf_counter() - began.pop()) / each
        pairs.append((bare.steps(each), ours))
        began.append(time.perf_counter())
        return {}

    settings = EncoderSettings(epochs=EPOCHS, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        keep = Keep(Path(scratch, "log.csv"), Path(scratch, "resume.pt"))
        finetune(clip, images, labels, terms, settings, validate=compare, keep=keep)
        megabytes = keep.resume.stat().st_size / 1e6
    return [
        Row(
            "2b step, ViT-B-32 at 224",
            "forward, backward, optimiser",
            "the training loop",
            pairs[1:],  # the first epoch warms up
            AIM,
            about="times",
            note=f"batches of {BATCH}; the resume state is {megabytes:.0f} MB",
        )
    ]
