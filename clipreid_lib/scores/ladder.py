"""The ladder's questions: which methods finished runs are of, and which of them are set against each other.

Runs that differ in their seed alone are one method. Each rung is asked about the one below it, and ``clipid`` about its
control without text.
"""

from itertools import combinations
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.read import read_values
from clipreid_lib.params.run_folder import list_run_folders
from clipreid_lib.params.run_ids import DATA_KEYS, ONE_VALUE
from clipreid_lib.params.schema import ENCODER_FINETUNE, EXTERNAL
from clipreid_lib.scores.comparison import Method, compare_methods, share_seeds
from clipreid_lib.scores.finished_run import FinishedRun, number_photographs, open_runs, read_answers

LADDER = ("frozen", "tip_adapter", "classifier", "clipid_no_text", "clipid", "inversion", "promptsg", "external")
QUESTIONS = (
    ("classifier", "frozen"),
    ("clipid", "classifier"),
    ("clipid", "clipid_no_text"),
    ("tip_adapter", "frozen"),
    ("inversion", "clipid"),
    ("promptsg", "clipid_no_text"),
)
# Keys that say where a run found its prompts, of each seed its own, and where it wrote. They tell runs apart only where
# nothing else does.
WHERE = ("resume_prompt", "save_dir", "output_dir")
CONTROLLED = "promptsg"  # its control is the same variant with another prompt_form
Runs = list[FinishedRun]
Pair = tuple[Method, Method]


def group_methods(runs: Runs) -> tuple[list[str], dict[tuple, Runs]]:
    """Group runs that differ in their seed alone.

    Returns:
        The keys that groups differ in, ``variant`` last; and runs by the values of these. Of a run of one stage,
        ``variant`` names the mode, too: after prompt_learn the image encoder is still the frozen one.
    """
    settings = pd.DataFrame([run.params.model_dump() for run in runs], dtype=object)  # or None becomes NaN
    one_stage = settings["mode"] != "full"
    settings.loc[one_stage, "variant"] += ", " + settings.loc[one_stage, "mode"]
    trained = settings[[run.params.trains_encoder for run in runs]]  # no others have a precision
    given, told = settings["variant"] == EXTERNAL, ["model", *sorted(DATA_KEYS - ONE_VALUE)]
    for key in ("pretrained", "experiment"):
        if settings.loc[given, told].duplicated().any():  # other features under one name
            told.append(key)
    # Else features of another program differ in their name, which is the model, and in what they are tested on.
    ours = {key: trained if key == "precision" else settings if key in told else settings[~given] for key in settings}
    counted = {key: rows[key].nunique(False) for key, rows in ours.items()}
    # ONE_VALUE: such as where data and results lie. Epochs and rate of one stage stand under that stage's keys, too.
    idle = {"variant", "mode", "seed", "epochs", "lr", *WHERE} | ONE_VALUE
    keys = [key for key, values in counted.items() if values > 1 and key not in idle or given.any() and key == "model"]
    for key in WHERE:
        if counted[key] > 1 and trained[[*keys, "variant", "seed"]].duplicated().any():
            keys.append(key)
    keys.append("variant")
    found: dict[tuple, Runs] = {}
    for run, values in zip(runs, settings[keys].itertuples(index=False), strict=True):
        found.setdefault(tuple(values), []).append(run)
    return keys, found


def group_tests(runs: Runs) -> list[Runs]:
    """Group runs by the questions they were asked under their own protocol: the same images, and the same pictures."""
    photographs = number_photographs(runs)
    found: dict[tuple, Runs] = {}
    for run in runs:
        found.setdefault((run.own["compared_sha"], photographs[run.name]), []).append(run)
    return list(found.values())


def make_method(name: str, runs: Runs) -> Method:
    """Gather the answers of runs that differ in their seed alone.

    Raises:
        UserError: two that train have the same seed, or a ``per_query.csv`` is damaged.
    """
    tables: dict[int, pd.DataFrame] = {}
    for run in runs:
        if run.params.seed in tables and run.params.trains_encoder:
            raise UserError(f"{name}: {len(runs)} runs, and two of seed {run.params.seed}; say which is meant")
        try:
            tables[run.params.seed] = run.queries
        except UserError as error:
            raise UserError(f"{run.name}: {error}") from None
    return Method(name, tables, any(run.params.trains_encoder for run in runs))


def ask(runs: Runs) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Ask the ladder's questions, and then all others, of runs that were asked the same queries.

    Returns:
        Two tables of :func:`~clipreid_lib.scores.comparison.compare_methods`, each empty where it has no row, and a
        sentence for each pair without a seed in common. A question of the ladder is asked of methods that differ in
        their variant alone, and of ``promptsg`` and its control.

    Raises:
        UserError: as :func:`make_method`.
    """
    keys, groups = group_methods(runs)
    order = sorted(groups, key=lambda values: (*map(str, values[:-1]), _find_rung(values[-1])))
    methods = {values: make_method(_name(keys, values), groups[values]) for values in order}
    first: list[tuple[int, Pair]] = []
    rest, apart = [], []
    for lower, upper in combinations(order, 2):
        pair = methods[upper], methods[lower]
        differing = [key for key, one, other in zip(keys, lower, upper, strict=True) if one != other]
        question = tuple(each[-1].removesuffix(f", {ENCODER_FINETUNE}") for each in (upper, lower))
        if not share_seeds(*pair):
            apart.append(f"{pair[0].name} and {pair[1].name} have no seed in common.")
        elif differing == ["variant"] and question in QUESTIONS:
            first.append((QUESTIONS.index(question), pair))
        elif differing == ["prompt_form"] and question == (CONTROLLED, CONTROLLED):
            first.append((len(QUESTIONS), pair))
        else:
            rest.append(pair)
    first.sort(key=lambda each: each[0])
    return compare_methods([pair for _, pair in first]), compare_methods(rest), apart


def _name(keys: list[str], values: tuple) -> str:
    """Name a method: its variant, words as they are, and other values with their keys."""
    said = [
        value if isinstance(value, str) else f"{key}={'null' if value is None else value}"
        for key, value in zip(keys, values, strict=True)
    ]
    return ", ".join([said[-1], *said[:-1]])


def report(chosen: list[str], outputs: Path) -> str:
    """Write the ladder's questions, or one comparison of the caller's own, as ``clipreid compare`` prints them.

    Args:
        chosen: none, for the ladder's questions of every evaluated run; or two, each a run's folder or a filter such as
            ``variant=clipid,aspect=dorsal_r`` that chooses runs by their params.
        outputs: folder whose runs a filter chooses from.

    Raises:
        UserError: a filter fits no run or is misspelt; the two share no test; as :func:`make_method`.
    """
    if len(chosen) not in (0, 2):
        raise UserError(f"compare: {len(chosen)} given; give two runs or filters, or none for the ladder's questions")
    lines: list[str] = []
    if not chosen:
        runs, left_out = _open_all(outputs)
        if not runs:
            made = left_out[0] if left_out else "`clipreid run params/demo.yaml` makes some"
            raise UserError(f"{outputs / 'runs'}: no evaluated run; {made}")
        for group in group_tests(runs):
            asked, rest, apart = ask(group)
            if len(asked) or len(rest):
                lines.append(f"{_describe(group[0])}\n\n{(asked if len(asked) else rest).to_string()}")
            lines += apart
        lines = [*lines, LEGEND] if lines else ["no two methods were asked the same questions"]
        return "\n\n".join([*lines, *(["\n".join(left_out)] if left_out else [])])
    (first, without), (second, too) = (_choose(text, outputs) for text in chosen)
    told = list(dict.fromkeys([*without, *too]))
    names = [{run.folder for run in runs} for runs in (first, second)]
    for group in group_tests(list({run.folder: run for run in [*first, *second]}.values())):
        one, other = ([run for run in group if run.folder in mine] for mine in names)
        if one and other:
            pair = _take_one(chosen[0], one), _take_one(chosen[1], other)
            lines.append(f"{_describe(one[0])}\n\n{compare_methods([pair]).to_string()}")
    if not lines:
        raise UserError(f"compare: {chosen[0]} and {chosen[1]} were asked no same questions")
    return "\n\n".join([*lines, LEGEND, *(["\n".join(told)] if told else [])])


LEGEND = (
    "Points, first minus second, [95 % interval over people and seeds]; with one seed, over people, p by sign flips.\n"
    "Holm: p adjusted for the rows of its table. shows: the smallest difference that a test of so many people and\n"
    "seeds finds with 80 % power."
)


def _take_one(text: str, runs: Runs) -> Method:
    keys, groups = group_methods(runs)
    if len(groups) > 1:
        columns = zip(keys, zip(*groups, strict=True), strict=True)
        apart = ", ".join(key for key, values in columns if len(set(values)) > 1)
        raise UserError(f"compare: {text}: fits {len(groups)} methods, which differ in {apart}; say which is meant")
    return make_method(text, runs)


def _describe(run: FinishedRun) -> str:
    params = run.params
    return f"{params.dataset} {params.aspect}, protocol {params.protocol}, scores over {run.own['over']}"


def _open_all(outputs: Path) -> tuple[Runs, list[str]]:
    """Open every evaluated run, and say of every other why it is left out."""
    runs, left_out = open_runs(list_run_folders(outputs))
    whole, damaged = read_answers(runs)
    return whole, left_out + [f"left out: {what}" for what in damaged]


def _choose(text: str, outputs: Path) -> tuple[Runs, list[str]]:
    """Return the runs that are meant, and why others of the outputs, which a filter may fit, are left out."""
    if "=" not in text or Path(text).is_dir():
        return [FinishedRun.open(Path(text))], []
    wanted = {}
    for part in text.split(","):
        key, _, value = (each.strip() for each in part.partition("="))
        if key in wanted:
            raise UserError(f"compare: {text}: {key} stands twice")
        wanted[key] = read_values(key, value, f"compare: {text}")
    runs, left_out = _open_all(outputs)
    found = [run for run in runs if all(getattr(run.params, key) in values for key, values in wanted.items())]
    if not found:
        raise UserError("; ".join([f"compare: no evaluated run fits {text}", *left_out[:1]]))
    return found, left_out


def _find_rung(variant: str) -> tuple[int, str]:
    name = variant.partition(",")[0]
    return (LADDER.index(name) if name in LADDER else len(LADDER)), variant
