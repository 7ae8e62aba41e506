"""Notebook keys: each notebook's results are stored under a hash of the parameters that affect them.

Runs with the same key for a notebook get the same results from it. Runs that differ only in fine-tuning reuse one
notebook 02; ``device`` is ignored. A key also covers the notebooks before, and the content of weights and prompts that
are read from files. No key covers one thing: notebook 05 also shows
stage 1 where a classifier run with the same draws lies in the same folder.
"""

from clipreid_lib.params.schema import DATA_KEYS, EVALUATION, NOT_IN_ID, PROMPTS, RETRIEVAL, SURVEY, Params, digest

# Parameters that act after stage 2a only. A test trains stage 2a with each of them changed and finds the same prompts.
AFTER_PROMPTS = {
    *("variant", "mode", "epochs", "lr", "encoder_epochs", "encoder_lr", "head_lr", "images_per_identity"),
    *("id_weight", "triplet_weight", "triplet_margin", "text_weight", "label_smoothing", "text_logits"),
    *("weight_decay", "accumulate", "precision", "output_dir", "save_dir"),
}
# Parameters outside the run id that change what a notebook after training writes.
SHOWN_BY = {EVALUATION: {"flip_test"}, RETRIEVAL: {"flip_test", "top_k"}}


def notebook_key(params: Params, notebook: str) -> str:
    """Return the key of one notebook.

    Args:
        params: of the run.
        notebook: its name, such as ``02_prompt_learning``.

    Returns:
        Eight letters; the same for all runs that get the same results from this notebook.
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
