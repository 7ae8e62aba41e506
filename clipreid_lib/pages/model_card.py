"""Model cards (Mitchell et al. 2019, arXiv 1810.03993), filled from a run's params and scores: what is true of it."""

from pathlib import PurePath

from clipreid_lib.params.recipes import EMBEDDED
from clipreid_lib.params.schema import ENCODER_FINETUNE, PROMPT_LEARN, Params

CITED = "Mitchell et al., Model cards for model reporting, FAT* 2019 (arXiv 1810.03993)"
SHOWN_HAND = {"market1501": "whole bodies", "demo": "drawn hands"}  # what the images show, where not photographed hands
WITHIN_SESSION = ("own", "mba", "common")  # protocols whose queries may come from the gallery image's own session


def describe_weights(params: Params) -> tuple[str, str]:
    """Return what the encoders were before this run, and under which licence that is."""
    given = params.pretrained
    if given == "random":
        return "random numbers; nothing was pretrained", "none needed: they were drawn here"
    if given and (params.weights or PurePath(given).suffix or "/" in given):
        return "a weights file of the user's own", "that of the file, which its owner has to state"
    if params.model == EMBEDDED:
        return (
            "the embedded CLIP of this project, pretrained on synthetic hands and their captions only",
            "MIT, like this project's code; trained here on synthetic hands only, no photograph was seen",
        )
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


def fill_card(params: Params, metrics: dict, parts: dict[str, tuple[int, int]], groups: tuple[int, int] | None) -> dict:
    """Return the card's headings with what is to be said under each.

    Args:
        params: of the run.
        metrics: its scores.
        parts: (images, people) by role of the manifest; empty where that is lost.
        groups: how many subgroups have a rate and how many are too small for one; None where that is lost.
    """
    shown = SHOWN_HAND.get(params.dataset, "hands")
    return {
        "Model": _model(params, parts),
        "Intended use": f"Research and teaching: comparing ways to train on {params.dataset} {params.aspect} under "
        f"protocol {params.protocol}, by people who know both. It ranks a gallery of {shown} by likeness to a query; "
        "its score compares images within this one model and is no probability.",
        "Out of scope": _out_of_scope(params),
        "Training data": _training_data(params, parts),
        "Evaluation data": _evaluation_data(params, metrics),
        "Metrics": "Rank-k, mAP and mINP by cosine similarity, mean over draws, with intervals that resample people; "
        "error rates over pairs; open-set search. Ties count against the model. Definitions stand under the scores, "
        "and the floor of 32x32 grey pixels beside them.",
        "Ethical considerations": _ethics(params, groups),
        "Caveats": _caveats(params, metrics, parts),
    }


def _model(params: Params, parts: dict) -> str:
    start = f"{params.model}, starting from {describe_weights(params)[0]}."
    people = f" of the {parts['train'][1]} training people" if "train" in parts else " of the training people"
    if params.variant == "frozen":
        return f"The image encoder of {start} Nothing was trained in this run."
    if params.variant == "tip_adapter":
        return f"{start} Nothing was trained; the embedding is the votes of the training images' features."
    if params.mode == PROMPT_LEARN:
        return (
            f"{start} In this run sentences about the training people were made, {_sentences(params)}; the image "
            "encoder, on which the scores stand, is as it was pretrained."
        )
    length = f"{params.encoder_epochs} epochs at a peak rate of {params.encoder_lr:g}, seed {params.seed}"
    how = {
        "classifier": f"cross entropy over the identities{people}",
        "clipid": f"cross entropy over the identities{people}, triplet loss, and the pull towards text anchors",
        "clipid_no_text": f"cross entropy over the identities{people} and triplet loss, without any text (the control)",
        "inversion": f"cross entropy over the identities{people}, and contrast with a sentence made of each image",
    }[params.variant]
    prompts = ""
    if params.variant == "clipid":
        whose = "learned by another run" if params.mode == ENCODER_FINETUNE else f"{_sentences(params)}"
        prompts = f" The anchors are sentences {whose}; the text is not used at test time."
    return f"{start} The image encoder was then trained by {how}; {length}.{prompts}"


def _sentences(params: Params) -> str:
    """Say what stage 2a's sentences consist of."""
    learned = f"{params.num_prompts} learned tokens ({params.prompt_epochs} epochs)"
    return {
        "learned": f"with {learned} of each person's own",
        "shared": f"with {learned} that all people share, before each one's attributes",
        "fixed": "with each person's attributes alone, nothing learned",
    }[params.prompt_form]


def _out_of_scope(params: Params) -> str:
    said = (
        "Identifying or verifying people in operation (access, payment, attendance, borders), surveillance, evidence "
        "in court or leads in an investigation, and reading gender, age, origin or health off a hand. No threshold "
        "given here was chosen for any of these."
    )
    if params.dataset == "demo":
        said += " The hands are drawings: no claim about photographs follows from any number on this page."
    if params.dataset == "market1501":
        said += " The images show whole bodies, to check the recipe; nothing follows for hands."
    return said


def _training_data(params: Params, parts: dict) -> str:
    if params.variant == "frozen":
        return f"None in this run. The encoders: {describe_weights(params)[0]}."
    if "train" not in parts:
        return f"{params.dataset} {params.aspect}; its counts are lost with the manifest."
    images, people = parts["train"]
    said = f"{params.dataset} {params.aspect}: {images} images of {people} people"
    if params.variant == "tip_adapter":
        said += ", remembered and not learned from"
    if "validation" in parts:
        held, others = parts["validation"]
        said += f"; {held} images of {others} people held out for validation ({params.validation})"
    return f"{said}. Before that, the encoders: {describe_weights(params)[0]}."


def _evaluation_data(params: Params, metrics: dict) -> str:
    said = (
        f"{metrics.get('identities', '?')} people of {params.dataset} {params.aspect}, "
        f"{metrics.get('queries', '?')} queries and {metrics.get('gallery', '?')} gallery images in draw 0, "
        f"{metrics.get('draws', params.draws)} draws, protocol {params.protocol}"
    )
    others = [name for name in metrics["protocols"] if name != params.protocol]
    said += f"; also tested under {', '.join(others)}" if others else ""
    return f"{said}. Nobody tested was trained on, and nothing was chosen by test images."


def _ethics(params: Params, groups: tuple[int, int] | None) -> str:
    if params.dataset == "demo":
        consent = "The hands are drawings of nobody, so no consent was needed; their attributes are the program's."
    elif params.dataset == "folder":
        consent = "The images are the user's own: that everybody in them agreed to this use is theirs to make sure."
    elif params.dataset == "market1501":
        consent = "The images show passers-by on a campus; whether they were asked is for the set's authors to say."
    else:
        consent = (
            "The images show people who took part for the data set's authors; what they agreed to is for its terms to "
            "say, and nothing beyond that may be assumed."
        )
    body = "bodies" if params.dataset == "market1501" else "hands"
    said = (
        f"{consent} Biometric data of {body} cannot be changed once it has leaked, and an embedding is biometric data "
        "as well: keep both as the images must be kept."
    )
    if params.dataset != "market1501":
        said += (
            " Hands are of interest to forensic work, where a photograph may show little else. A ranked list is then a "
            "lead at best: it always names somebody, also where the right person is not in the gallery."
        )
    if groups is not None:
        said += (
            f" Error was measured by subgroup: {groups[0]} groups have a rate, {groups[1]} are too small for one. "
            "Groups without a visible difference are not shown to be treated alike."
        )
    return said


def _caveats(params: Params, metrics: dict, parts: dict) -> str:
    said = [f"One training seed ({params.seed}); deviations on this page are over draws, not over seeds."]
    if params.variant in ("frozen", "tip_adapter") or params.mode == PROMPT_LEARN:
        said = ["The image encoder is as it was pretrained, so a training seed changes nothing in its features."]
    if params.dataset == "11k" and params.protocol in WITHIN_SESSION:
        said.append("In 11k Hands most images of a hand are one session: this measures recognition within a session.")
    if params.dataset == "demo":
        said.append("Numbers on drawn hands compare methods with one another, and show that the program works.")
    if params.protocol == "mba" and params.dataset in ("11k", "demo"):
        said.append("Distractors include other hands of the test people, which count as wrong.")
    if metrics.get("identities", 99) < 50:
        said.append(
            f"{metrics['identities']} test people are few: one of them moves rank-1 by some "
            f"{100 / metrics['identities']:.0f} points."
        )
    if params.flip_test:
        said.append("A row with mirrored images is among the scores; a mirrored right hand looks like a left one.")
    if parts.get("unpaired"):
        said.append(f"{parts['unpaired'][1]} people with too few images took no part in the test.")
    return " ".join(said)
