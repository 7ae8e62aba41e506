"""The report of one run: its sections, each made from the run's folder alone or saying what is not there."""

from collections.abc import Callable

from clipreid_lib.pages import findings, record, tables
from clipreid_lib.pages.evaluated import DAMAGED, Evaluated, reason
from clipreid_lib.pages.layout import Facts, Section, missing, render
from clipreid_lib.scores.results import FLOOR
from clipreid_lib.scores.score_names import method

SECTIONS = {
    "Scores": findings.scores,
    "Other ways to compare": findings.other_rows,
    "Data and protocol": record.data,
    "Training": findings.curves,
    "Pictures": findings.figures,
    "Failures": findings.failures,
    "Who it fails": findings.by_subgroup,
    "Beside published numbers": lambda one: findings.beside(one.metrics),
    "Model card": record.card,
    "Licences and citations": record.licences,
    "Provenance": lambda one: [Facts(record.provenance(one))],
    "Params": record.params,
    "How to repeat it": record.repeat,
    "Notebooks": record.notebooks,
}


def page(one: Evaluated) -> str:
    """Return the run's report as HTML; its executed notebooks are written as pages beside them on the way."""
    sections = [Section(title, told(one, make)) for title, make in SECTIONS.items()]
    return render(one.name, _summary(one), sections, [one.run.folder, one.run.folder.parent.parent])


def told(one: Evaluated, make: Callable[[Evaluated], list]) -> list:
    """Make a section, or say in a sentence which file of the run it misses."""
    try:
        return make(one)
    except DAMAGED as error:
        return [missing(f"Not to be shown: {reason(error)}.")]


def _summary(one: Evaluated) -> list[str]:
    params, own = one.run.params, one.own
    trained = "it was trained on other people" if params.trains_encoder else "nothing was trained"
    if params.mode == "prompt_learn":
        trained = "sentences were learned, the image encoder is as pretrained"
    tested = (
        f"The model {params.model}, variant {method(params.variant, params.stage)}, seed {params.seed}, was tested on "
        f"{params.dataset} {params.aspect} under protocol {params.protocol} ({trained}): "
        f"{own.get('identities', '?')} people, {own.get('draws', '?')} draws, in the first of them "
        f"{own.get('queries', '?')} queries and {own.get('gallery', '?')} gallery images."
    )
    floor = own.get("rows", {}).get(FLOOR) or {}
    scored = (
        f"Rank-1 is {tables.value(own, 'rank1', ' ')} and mAP {tables.value(own, 'map', ' ')} (per cent, mean ± "
        "deviation over draws [95 % interval over people]); nearest neighbour on 32x32 grey pixels, the floor, has "
        f"rank-1 {tables.value(floor, 'rank1')} and mAP {tables.value(floor, 'map')}."
    )
    return [tested, scored]
