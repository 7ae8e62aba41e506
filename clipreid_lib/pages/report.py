"""Reports: one page per run and one for several, for readers who have neither the code nor the images."""

from collections.abc import Callable, Iterator
from pathlib import Path

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_text
from clipreid_lib.pages import report_origin, report_runs, report_scores
from clipreid_lib.pages.report_blocks import Facts, make_section, render
from clipreid_lib.params.run_folder import list_run_folders
from clipreid_lib.params.schema import EXTERNAL, project_path
from clipreid_lib.scores import hand_table
from clipreid_lib.scores.finished_run import ACROSS_ASPECTS, FinishedRun, open_runs
from clipreid_lib.scores.score_names import FLOOR, IN_DRAWS, VOTES, format_score, format_share, name_method

SECTIONS: dict[str, Callable[[FinishedRun], list]] = {
    "Scores": report_scores.show_scores,
    "Other ways to compare": report_scores.show_rows,
    "Several photographs of a person": report_scores.show_templates,
    "Is it the hand?": report_scores.show_hand_test,
    "Thresholds": report_scores.show_thresholds,
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
# Why the own rank-1 of a run of several aspects may be low.
SEVERAL = (
    " A query may show one aspect and the right image of the gallery another; the scores of each aspect alone stand "
    "below."
)


def write(folders: list[str], outputs: str | None = None) -> Iterator[str]:
    """Write every page that is asked for, and say of each where it lies.

    Args:
        folders: of runs; every evaluated run of the outputs folder where empty.
        outputs: where the page of several runs goes to; None takes the folder that all lie in, else the project's.

    Yields:
        Lines to print: the address of each page written, and a sentence for each run left out.

    Raises:
        UserError: a folder given is no run's or has no scores; no run is given and none is there.
    """
    if folders:
        runs = [FinishedRun.open(folder) for folder in dict.fromkeys(Path(folder).resolve() for folder in folders)]
    else:
        place = project_path(outputs or "outputs")
        runs, left_out = open_runs(list_run_folders(place))
        yield from left_out
        if not runs:
            raise UserError(f"{place / 'runs'}: no evaluated run to report; `clipreid run params/demo.yaml` makes some")
    for run in runs:
        yield write_run(run).as_uri()
    if len(runs) > 1:
        yield write_several(runs, outputs, chosen=bool(folders)).as_uri()


def write_run(run: FinishedRun) -> Path:
    """Write a run's page into its folder, and its executed notebooks as pages; return the run's page."""
    path = run.folder / "report.html"
    write_text(path, lay_out(run))
    return path


def write_several(runs: list[FinishedRun], outputs: str | None = None, chosen: bool = False) -> Path:
    """Write the page of several runs and return it.

    Args:
        runs: two or more.
        outputs: as for :func:`write`.
        chosen: whether they are some of their experiment, whose page of all stays.
    """
    around = {run.outputs for run in runs}
    place = around.pop() if outputs is None and len(around) == 1 else project_path(outputs or "outputs")
    path = place / "reports" / f"{report_runs.name_page(runs, chosen)}.html"
    write_text(path, report_runs.lay_out(runs, path.parent, place, chosen))
    return path


def lay_out(run: FinishedRun) -> str:
    """Return the run's report as HTML; its executed notebooks are written as pages beside them on the way."""
    sections = [make_section(title, make, run) for title, make in SECTIONS.items()]
    sections = [each for each in sections if each.blocks]  # an older run may lack what one is about
    return render(run.name, _sum_up(run), sections, [run.folder, run.outputs])


def _sum_up(run: FinishedRun) -> list[str]:
    params, own = run.params, run.own
    trained = "it was trained on other people" if params.trains_encoder else "nothing was trained"
    if params.variant == EXTERNAL:
        trained = "features that another program made; on whose images it was trained is not known"
    if params.mode == "prompt_learn":
        trained = "sentences were learned, the image encoder is as pretrained"
    counts = {name: own.get(name, "?") for name in ("identities", "draws", "queries", "gallery")}
    floor = own.get("rows", {}).get(FLOOR) or {}
    return [
        f"The model {params.model}, variant {name_method(params.variant, params.stage)}, seed {params.seed}, was "
        f"tested on {params.dataset} {params.aspect} under protocol {params.protocol} ({trained}): "
        f"{counts['identities']} people; scores are means over {own['over']}; a draw has {counts['queries']} queries "
        f"and {counts['gallery']} gallery images.{SEVERAL if run.metrics.get(ACROSS_ASPECTS) else ''}",
        f"Rank-1 is {format_score(own, 'rank1')} and mAP {format_score(own, 'map')} (per cent [95 % interval over "
        f"people]); with one vote per person {format_score(own, VOTES[0])} and {format_score(own, VOTES[1])}. Over "
        f"{counts['draws']} draws, as papers print, rank-1 is {format_score(own, f'rank1{IN_DRAWS}')} (mean ± "
        f"deviation). Nearest neighbour on 32x32 grey pixels, the floor, has rank-1 {format_score(floor, 'rank1')} and "
        f"mAP {format_score(floor, 'map')}.",
        *_warn_of_background(run),
    ]


def _warn_of_background(run: FinishedRun) -> list[str]:
    if not hand_table.names_by_background(run.hand_test):
        return []
    row = run.hand_test["rows"][hand_table.BACKGROUND]
    return [
        f"Mind: the background alone tells people apart. With the hand painted over, rank-1 is still "
        f"{format_score(row, 'rank1')}; guessing would reach {format_share(row['chance'])}."
    ]
