"""The report of one run: its sections, each made from the run's folder alone or saying what is not there."""

from collections.abc import Callable

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import report_origin, report_scores
from clipreid_lib.pages.report_blocks import Facts, Section, Words, render
from clipreid_lib.scores.finished_run import FinishedRun
from clipreid_lib.scores.score_names import FLOOR, format_score, name_method

SECTIONS: dict[str, Callable[[FinishedRun], list]] = {
    "Scores": report_scores.show_scores,
    "Other ways to compare": report_scores.show_rows,
    "Data and protocol": report_origin.show_data,
    "Training": report_scores.show_curves,
    "Pictures": report_scores.show_figures,
    "Failures": report_scores.show_failures,
    "Who it fails": report_scores.show_subgroups,
    "Beside published numbers": report_scores.show_published,
    "Model card": report_origin.show_card,
    "Licences and citations": report_origin.show_licences,
    "Provenance": lambda run: [Facts(report_origin.list_provenance(run))],
    "Params": report_origin.show_params,
    "How to repeat it": report_origin.show_repeat,
    "Notebooks": report_origin.show_notebooks,
}


def lay_out(run: FinishedRun) -> str:
    """Return the run's report as HTML; its executed notebooks are written as pages beside them on the way."""
    sections = [make_section(title, make, run) for title, make in SECTIONS.items()]
    return render(run.name, _sum_up(run), sections, [run.folder, run.outputs])


def make_section(title: str, make: Callable[..., list], *given: object) -> Section:
    """Make a section, or one that says which file of a run is missing or damaged.

    Only what reading a file raises counts as that: any other error is a fault of ours and is not caught.
    """
    try:
        return Section(title, make(*given))
    except UserError as error:
        return Section(title, [Words(f"Not to be shown: {str(error).rstrip('.')}.", missing=True)])


def _sum_up(run: FinishedRun) -> list[str]:
    params, own = run.params, run.own
    trained = "it was trained on other people" if params.trains_encoder else "nothing was trained"
    if params.mode == "prompt_learn":
        trained = "sentences were learned, the image encoder is as pretrained"
    counts = {name: own.get(name, "?") for name in ("identities", "draws", "queries", "gallery")}
    floor = own.get("rows", {}).get(FLOOR) or {}
    return [
        f"The model {params.model}, variant {name_method(params.variant, params.stage)}, seed {params.seed}, was "
        f"tested on {params.dataset} {params.aspect} under protocol {params.protocol} ({trained}): "
        f"{counts['identities']} people, {counts['draws']} draws, in the first of them "
        f"{counts['queries']} queries and {counts['gallery']} gallery images.",
        f"Rank-1 is {format_score(own, 'rank1')} and mAP {format_score(own, 'map')} (per cent, mean ± "
        "deviation over draws [95 % interval over people]); nearest neighbour on 32x32 grey pixels, the floor, has "
        f"rank-1 {format_score(floor, 'rank1')} and mAP {format_score(floor, 'map')}.",
    ]
