"""Stage 2b's own work against the bare step of the same model at the same batch: `make bench`.

Bare: forward, backward and optimiser step of image encoder and heads on a batch that lies ready. Ours: the training
loop as it runs, with sampling, normalising, augmentation, all losses, logging and the resume state.
"""

import tempfile
import time
from pathlib import Path

import torch

from clipreid_lib import encoder_finetune, params, prompt_learning, stages
from clipreid_lib.clipid_model import ClipidModel
from clipreid_lib.images import augment
from clipreid_lib.runs import Run

AIM = 10  # per cent over the bare step
SETTINGS = {  # ViT-B-32 at 224: the smallest of the real sizes
    **{"model": "vitb32", "pretrained": "random", "variant": "clipid", "prompt_epochs": 1, "encoder_epochs": 1},
    **{"demo_people": 24, "demo_images": 8, "demo_sessions": 2, "draws": 1, "batch_size": 32, "device": "cpu"},
}


def bare(run: Run, steps: int) -> float:
    """Time steps on one batch in memory, seconds each."""
    clip = stages.load_backbone(run)
    model = ClipidModel(clip, 12)
    optimiser = torch.optim.Adam(model.parameter_groups(5e-6, 5e-5))
    pixels = torch.randint(0, 255, (32, 3, *clip.image_size), dtype=torch.uint8)
    images, rows = augment.normalise(pixels, *clip.normalisation), torch.arange(32) % 12
    model.train()
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        out = model(images)
        loss = torch.nn.functional.cross_entropy(out.logits, rows) + out.features.f_proj.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        times.append(time.perf_counter() - began)
    return sum(times[1:]) / steps  # the first warms up


def main() -> None:
    """Print seconds per step and what ours costs on top."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Run.open(params.validated(SETTINGS | {"outputs_root": scratch}))
        prompt_learning.learn_prompts(run, stages.load_backbone(run))
        steps = len(run.manifest.train) // 32
        before = bare(run, steps)
        _, log = encoder_finetune.finetune_encoder(run, stages.load_backbone(run))
        ours = log["seconds"].iloc[-1] / steps
        after = bare(run, steps)
        base = (before + after) / 2  # taken before and after, since machines wander
        folder = Path(scratch)
        print(f"stage 2b, ViT-B-32 at 224, batches of 32, {steps} steps (outputs in {folder.name} thrown away)\n")
        print("bare s/step  ours s/step  over the bare step  aim")
        print(f"{base:11.2f}  {ours:11.2f}  {100 * (ours / base - 1):16.1f} %  < {AIM} %")


if __name__ == "__main__":
    main()
