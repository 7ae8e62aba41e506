"""Notebook keys: what the outcome of each notebook depends on, as a hash. Equal keys mean equal outcomes.

A run's folder is named by all the params that change its numbers. A single notebook depends on fewer: two runs that
differ in how the encoder is fine-tuned learn the same prompts, and one more image per row of a gallery changes notebook
05 alone. Each key holds those of the notebooks before it, and the hashes of weights and prompts read from files. One
thing is in no key: notebook 05 also draws a classifier run that lies beside its own, so its pictures depend on whether
one does.
"""

from clipreid_lib.params.schema import DATA_KEYS, EVALUATION, NOT_IN_ID, PROMPTS, RETRIEVAL, SURVEY, Params, digest

# What acts after stage 2a alone. A test trains stage 2a with each of them changed and finds the same prompts.
AFTER_PROMPTS = {
    *("variant", "mode", "epochs", "lr", "encoder_epochs", "encoder_lr", "head_lr", "images_per_identity"),
    *("id_weight", "triplet_weight", "triplet_margin", "text_weight", "label_smoothing", "text_logits"),
    *("weight_decay", "accumulate", "precision", "output_dir", "save_dir"),
}
# Keys outside the run id that change what a notebook after training writes.
SHOWN_BY = {EVALUATION: {"flip_test"}, RETRIEVAL: {"flip_test", "top_k"}}


def notebook_key(params: Params, notebook: str) -> str:
    """Return the key of one notebook's outcome.

    Args:
        params: of the run.
        notebook: its name, such as ``02_prompt_learning``.

    Returns:
        Eight letters; the same for all runs whose outcome of this notebook is the same.
    """
    mine = params.resolved()
    if notebook == SURVEY:
        return mine.data_id.rsplit("-", 1)[1]
    keep = set(Params.model_fields) - NOT_IN_ID
    if notebook == PROMPTS:
        keep -= AFTER_PROMPTS
    if mine.dataset != "demo":
        keep -= {key for key in DATA_KEYS if key.startswith("demo_")}
    return digest(mine, keep | SHOWN_BY.get(notebook, set()), data=mine.data_id, **mine.parents)
