"""What a run's keys may not say together, though each of them may stand alone."""

import os
import re
from pathlib import Path

from clipreid_lib.params.recipes import TIMM, recipe_of
from clipreid_lib.params.schema import (
    ASPECTS,
    ENCODER_FINETUNE,
    EXTERNAL,
    HAND,
    PROMPT_LEARN,
    SILENT,
    SPEAK,
    TRAIN_NOTHING,
    Keys,
)

SCORE = "external is for features that another program made; `clipreid score FEATURES --as NAME` makes such a run"
JOINED = "several aspects in one run need protocol common, which has one split of people for all"
OURS = {"done", "enrolled", "figures", "notebooks", "params.yaml"}  # what else a run's folder holds
FEATURES = re.compile(r"features [0-9a-f]{16}")  # what such a run has as pretrained: the beginning of their SHA-256


def refuse_contradictions(keys: Keys) -> None:
    """Refuse keys that contradict one another.

    Raises:
        ValueError: ``key|what is wrong``, with the key that is to be changed.
    """
    known, mine = ASPECTS[keys.dataset], keys.aspect.split("+")
    for aspect in mine if known else ():
        if aspect not in known:
            told = f"allowed: {', '.join(known)}, or several joined by +"
            raise ValueError(f"aspect|{keys.dataset} has no {aspect!r}; {told}")
    if known and len({*mine}) < len(mine):
        raise ValueError(f"aspect|{keys.aspect}: joins one aspect twice; name each once")
    if known and len(mine) > 1 and keys.protocol != "common":
        raise ValueError(f"aspect|{keys.aspect}: {JOINED}")
    said = keys.variant == "clipid" and keys.prompt_form == "learned"
    if known and len(mine) > 1 and said and keys.noun not in (None, HAND):
        raise ValueError("noun|learned sentences of several aspects say which aspect and no noun; leave it null")
    if keys.variant == EXTERNAL and not FEATURES.fullmatch(keys.pretrained or ""):
        raise ValueError(f"variant|{SCORE}")
    for key in ("epochs", "lr"):
        if keys.mode == "full" and getattr(keys, key) is not None:
            raise ValueError(
                f"{key}|belongs to mode {PROMPT_LEARN} or {ENCODER_FINETUNE}, which train one stage; in mode "
                f"full write prompt_{key} (stage 2a) or encoder_{key} (stages 1 and 2b)"
            )
    if keys.model.startswith(TIMM) and keys.variant in SPEAK:
        raise ValueError(f"variant|{keys.model} has no text tower for {keys.variant}; use {', '.join(SILENT)}")
    if keys.mode == PROMPT_LEARN and keys.variant != "clipid":
        raise ValueError(f"mode|variant {keys.variant} learns no prompts; prompt_learn goes with clipid")
    if keys.mode == ENCODER_FINETUNE and keys.variant in TRAIN_NOTHING:
        raise ValueError(f"mode|variant {keys.variant} trains nothing; use mode full")
    needs_prompts = keys.mode == ENCODER_FINETUNE and keys.variant == "clipid"
    if needs_prompts and not keys.resume_prompt:
        raise ValueError(
            "resume_prompt|mode img_encoder_finetune starts from learned prompts: give the "
            "prompts.safetensors of a prompt_learn run, or use mode full"
        )
    if keys.test_features == "after_neck" and not (keys.trains_encoder and keys.variant != "clipid"):
        raise ValueError(
            f"test_features|{keys.variant}, mode {keys.mode}, has no heads to pass, or is compared with texts too; "
            "after_neck goes with classifier, clipid_no_text, inversion and promptsg"
        )
    if keys.variant == "promptsg" and keys.prompt_form == "shared":
        raise ValueError(
            "prompt_form|promptsg takes learned (a word made of each image) or fixed (no word, its control)"
        )
    if keys.side_info != "none" and not keys.trains_encoder:
        raise ValueError(f"side_info|{keys.variant}, mode {keys.mode}, trains no image encoder to use it; use none")
    if keys.train != "all" and not keys.trains_encoder:
        raise ValueError(f"train|{keys.variant}, mode {keys.mode}, trains no image encoder; use all")
    if keys.image_size and max(map(int, keys.image_size.split("x"))) > 4096:
        raise ValueError(f"image_size|{keys.image_size} is too large; at most 4096 pixels a side")
    if keys.resume_prompt and not needs_prompts:
        raise ValueError("resume_prompt|only variant clipid with mode img_encoder_finetune reads it")
    if keys.dataset == "demo" and keys.demo_sessions > keys.demo_images:
        raise ValueError(
            f"demo_sessions|{keys.demo_sessions} sessions cannot share {keys.demo_images} images (demo_images)"
        )
    for key in ("output_dir", "save_dir"):
        first = Path(os.path.normpath(Path(getattr(keys, key)).expanduser())).parts[:1]
        if first in ((), ("..",)) or first[0] in OURS:
            raise ValueError(f"{key}|{getattr(keys, key)!r} is no folder of its own inside the run's folder")
    batch = keys.batch_size or recipe_of(keys.model).batch_size
    if batch < 2 * keys.images_per_identity and keys.mode != PROMPT_LEARN:
        raise ValueError(
            f"batch_size|{batch} holds fewer than two identities of images_per_identity="
            f"{keys.images_per_identity}; the triplet loss needs at least {2 * keys.images_per_identity}"
        )
