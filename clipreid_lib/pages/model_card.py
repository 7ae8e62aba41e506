"""Model cards (Mitchell et al. 2019, arXiv 1810.03993), filled from a run's params and scores: what is true of it.

What a card says stands in ``model_card.txt``.
"""

from pathlib import PurePath

from clipreid_lib.pages.filled_texts import fill
from clipreid_lib.params.recipes import EMBEDDED, TIMM
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import EXTERNAL

CITED = "Mitchell et al., Model cards for model reporting, FAT* 2019 (arXiv 1810.03993)"
# What each variant trains the image encoder by, beside cross entropy over the identities.
LOSSES = {
    "classifier": "",
    "clipid": ", triplet loss, and the pull towards text anchors",
    "clipid_no_text": " and triplet loss, without any text (the control)",
    "inversion": ", and contrast with a sentence made of each image",
    "promptsg": " and triplet loss, also of a feature composed of the image and a sentence",
}


def describe_weights(params: Params) -> tuple[str, str]:
    """Return what the encoders were before this run, and under which licence that is."""
    given = params.pretrained
    if params.variant == EXTERNAL:
        return (
            f"features called {params.model}, which another program made; how, and on whose images it was trained, is "
            "not known here",
            "that of the program and its weights, which whoever made the features has to state",
        )
    if given == "random":
        return "random numbers; nothing was pretrained", "none needed: they were drawn here"
    if given and (params.weights or PurePath(given).suffix or "/" in given):
        return "a weights file of the user's own", "that of the file, which its owner has to state"
    if params.model == EMBEDDED:
        return (
            "the embedded CLIP of this project, pretrained on synthetic hands and their captions only",
            "MIT, like this project's code; trained here on synthetic hands only, no photograph was seen",
        )
    if params.model.startswith(TIMM):
        from clipreid_lib.clip.timm_towers import choose_weights, licence_of  # loads torch

        named, licence = choose_weights(params.model, given)[0], licence_of(params.model, given)
        return f"the weights that timm knows as {named}", f"{licence}, as timm states it; read it before you use them"
    if given in (None, "openai"):
        return (
            f"OpenAI's CLIP weights for {params.model}, pretrained on 400 million images with texts from the web",
            "MIT, as OpenAI publishes code and weights (github.com/openai/CLIP). The model card beside them calls any "
            "deployed use out of scope, and surveillance and facial recognition out of scope always. Recognising "
            "people by their hands is close to both: read the card before anything but research",
        )
    return (
        f"the weights that open_clip knows as {given} for {params.model}",
        f"see the hub page of {params.model} {given}; open_clip's list of pretrained weights links it",
    )


def fill_card(
    params: Params, scores: dict, parts: dict[str, tuple[int, int]], groups: tuple[int, int]
) -> dict[str, str]:
    """Return the card's headings with what is to be said under each.

    Args:
        params: of the run.
        scores: under its own protocol; ``protocols`` names all of them.
        parts: (images, people) by role of the manifest.
        groups: how many subgroups have a rate and how many are too small for one.
    """
    filled = fill(
        "model_card.txt",
        params=params,
        start=describe_weights(params)[0],
        losses=LOSSES.get(params.variant, ""),
        scores=scores,
        others=[name for name in scores["protocols"] if name != params.protocol],
        parts=parts,
        groups=groups,
    )
    _, *sections = f"\n{filled}".split("\n# ")
    return {title: " ".join(said.split()) for title, said in (section.split("\n", 1) for section in sections)}
