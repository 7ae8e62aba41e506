"""Runs as small as they can be while everything still happens, and the command line that makes them."""

import subprocess
import sys
from pathlib import Path

from clipreid_lib.method import encoder_finetune
from clipreid_lib.method.prompt_learning import learn_prompts
from clipreid_lib.params.run_params import Params
from clipreid_lib.runs import loading, records, training

TINY = {
    "demo_people": 8,
    "demo_images": 4,
    "demo_sessions": 2,
    "draws": 2,
    "prompt_epochs": 2,
    "encoder_epochs": 2,
    "batch_size": 8,
    "device": "cpu",
}
# Of the runs that all notebooks make: long enough for their trainings to be killed in the middle.
LADDER = TINY | {"experiment": "tiny", "prompt_epochs": 4, "encoder_epochs": 16, "encoder_lr": 1e-4}
JOBS = ("--jobs", "2")  # the same for all runs that are compared: it says how many threads a training has


def run(place, *arguments) -> subprocess.CompletedProcess:
    """Call `clipreid run` in a folder."""
    command = [sys.executable, "-m", "clipreid_lib", "run", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600)


def finish(params: Params, folder: Path, *notebooks: str, **facts) -> None:
    """Leave a run's folder as if these notebooks had been executed: with their files, and their records."""
    for name in notebooks:
        for path in records.list_products(params, folder, name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        records.write_record(params.resolved(), folder, name, facts)


def learn(run, clip=None, **more):
    """Do stage 2a of a run as notebook 02 does; return backbone, prompt bank and log."""
    clip = clip or loading.load_backbone(run)
    data = training.load_training_set(run, clip, as_tested=True)
    settings, keep = training.prompt_settings(run), training.keep_prompts(run)
    bank, log = learn_prompts(
        clip, data.images, data.labels, settings, words=data.words, aspects=data.aspects, keep=keep, **more
    )
    training.save_prompts(run, clip, bank)
    return clip, bank, log


def finetune(run, clip=None, **more):
    """Do stage 1 or 2b of a run as notebook 03 does; return backbone, model and log."""
    clip = clip or loading.load_backbone(run)
    data, terms = training.load_training_set(run, clip), training.loss_terms(run, clip)
    kept = {"validate": training.make_validation(run, clip), "keep": training.keep_encoder(run)} | more
    settings = training.encoder_settings(run)
    model, log = encoder_finetune.finetune(clip, data.images, data.labels, terms, settings, side=data.side, **kept)
    training.save_encoder(run, clip, model, terms)
    return clip, model, log
