"""Which keys and files make a run's id: a hash of what changes its numbers, the same in every later version."""

import hashlib
import json
import os

from clipreid_lib.base.files import file_sha
from clipreid_lib.params.recipes import recipe_of
from clipreid_lib.params.schema import HAND, OLDER_WORDS, Keys, project_path

# Keys that say where, how fast or how much is shown, never what is trained: they stay out of the run id. So do paths,
# for which the hash of what they lead to stands (weights, prompts) or the manifest's (data).
NOT_IN_ID = {
    *("experiment", "outputs_root", "device", "top_k", "flip_test", "checkpointing"),
    *("data_root", "allow_missing", "pretrained", "resume_prompt", "rerank_k1", "rerank_k2"),
    *("photograph", "gallery_root", "gallery_images", "query_images"),
}
# Keys that version 0.1.0 had not: an id or a notebook's key holds them only where they differ from the default.
LATER = {
    *("positions", "test_resize", "noun", "flip_train", "padding", "erasing", "sampler", "schedule", "bias_factor"),
    *("activation", "normalisation", "test_features", "rerank_k1", "rerank_k2", "photograph", "gallery_root"),
    *("train", "gallery_images", "query_images"),
}
# Keys that say which data is read, how it is split and where it goes.
DATA_KEYS = {
    *("dataset", "data_root", "allow_missing", "burst_gap"),
    *("aspect", "protocol", "validation", "draws", "draw_seed"),
    *("demo_people", "demo_images", "demo_sessions", "demo_difficulty", "demo_seed", "outputs_root"),
}
# Keys of which one run takes one value and a grid no other: runs are not told apart by them.
ONE_VALUE = NOT_IN_ID - {"experiment", "pretrained", "resume_prompt"}


def digest(params: Keys, keep: set[str], **more: str | None) -> str:
    """Hash the named keys of some params, and more facts, into eight letters."""
    kept = {key: value for key, value in params.model_dump().items() if key in keep} | more
    usual = {key: Keys.model_fields[key].default for key in LATER}
    usual |= {"noun": HAND, "bias_factor": recipe_of(params.model).bias_factor}
    kept = {key: value for key, value in kept.items() if key not in LATER or value != usual[key]}
    if logits := kept.pop("prompt_logits", None):  # hashed as version 0.1.0 named both, so that its runs are found
        kept["prompt_loss"] = OLDER_WORDS.get((kept["prompt_loss"], logits), f"{kept['prompt_loss']} {logits}")
    if params.dataset != "demo" and "demo_difficulty" in kept:  # as it was hashed while 0.6 was the default
        kept["demo_difficulty"] = 0.6
    if kept.get("precision") == "float32":  # as it was hashed while auto stood there
        kept["precision"] = "auto"
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def hash_content(path: str) -> str:
    """Return the hash of a local file that params name; any other name as it is."""
    file = project_path(path)
    return file_sha(file) if os.path.isfile(file) else path
