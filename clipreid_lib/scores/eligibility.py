"""Eligibility: which protocols may test what a run has trained, so that one checkpoint answers for all of them."""

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import protocols
from clipreid_lib.data.manifest import PROTOCOLS, Manifest
from clipreid_lib.runs.run import Run


def manifests(run: Run) -> tuple[dict[str, Manifest], dict[str, str]]:
    """Build the manifest of every protocol that tests nobody the run has trained on or chosen by.

    Returns:
        Manifests by protocol, the run's own first, and for every other protocol the reason why it is left out.
    """
    params = run.params
    fit: dict[str, Manifest] = {params.protocol: run.manifest}
    unfit: dict[str, str] = {}
    for name in PROTOCOLS:
        if name in fit:
            continue
        try:
            other = protocols.build(
                run.table, name, params.aspect, seed=params.draw_seed, validation="none", draws=params.draws
            )
        except UserError as error:
            unfit[name] = str(error).removeprefix("protocol: ")
            continue
        shared = run.seen_people & set(other.test["subject"])
        twin = next((mine for mine, each in fit.items() if each.compared_sha == other.compared_sha), None)
        if shared:
            unfit[name] = f"{len(shared)} of its test people were trained on or chosen by"
        elif twin:
            unfit[name] = f"it compares the same images as {twin}"
        else:
            fit[name] = other
    return fit, unfit


def images(tests: dict[str, Manifest]) -> pd.DataFrame:
    """Return every image that the protocols compare, each once."""
    return pd.concat([each.in_tests for each in tests.values()]).drop_duplicates("path")


def summary(tests: dict[str, Manifest], left_out: dict[str, str]) -> pd.DataFrame:
    """Say which protocols test the run, with the counts of draw 0, and why the others don't.

    Args:
        tests: manifest by protocol.
        left_out: protocol to the reason why it does not test the run.
    """
    rows = {}
    for name, each in tests.items():
        query, gallery = each.draw(0)
        away = int((gallery["role"] == "distractor").sum())
        draws = "1 draw" if each.draws == 1 else f"{each.draws} draws"
        people = each.test["identity"].nunique()
        rows[name] = (
            f"{draws}: {people} people, {len(query)} queries, {len(gallery)} gallery images ({away} distractors)"
        )
    rows |= {name: f"left out: {reason}" for name, reason in left_out.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[""])
