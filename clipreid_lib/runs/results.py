"""Results that travel: each run's ``metrics.json``, its CSV files, and ``thresholds.json``."""

from functools import partial

import pandas as pd

from clipreid_lib.base.files import write_csv, write_json
from clipreid_lib.params.schema import EXTERNAL, project_path
from clipreid_lib.runs.embeddings import embed_changed, embed_own
from clipreid_lib.runs.machine import choose_device, describe_device, provenance
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import calibration, crossing, hand_test, strangers, thresholds
from clipreid_lib.scores.assessment import Assessment
from clipreid_lib.scores.encoder import Encoder
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.finished_run import ACROSS_ASPECTS, HAND_TEST
from clipreid_lib.scores.given_features import ONLY, GivenFeatures
from clipreid_lib.scores.hand_test import HandTest
from clipreid_lib.scores.leaderboard import refresh_leaderboard
from clipreid_lib.scores.score_names import DEFINITIONS, FLOOR
from clipreid_lib.scores.verification import keep_tested, list_pairs

BODY = "body"  # aspect of a data set that shows whole people


def write_metrics(
    run: Run, assessments: dict[str, Assessment], encoder: Encoder, closed_set: dict, left_out: dict[str, str]
) -> dict:
    """Write a run's ``metrics.json`` and its CSV files, and refresh the leaderboard.

    Args:
        run: the run.
        assessments: by protocol. The first is the run's own.
        encoder: that made the embeddings.
        closed_set: from :func:`clipreid_lib.runs.embeddings.identify`.
        left_out: protocols that could not test this run, and why.

    Returns:
        What ``metrics.json`` holds: the run's own protocol at the top, every protocol under ``protocols``.
    """
    params = run.params
    protocols = {name: each.numbers for name, each in assessments.items()}
    own = protocols[params.protocol]
    facts, device = provenance(), choose_device(params.device)
    logs = [pd.read_csv(path) for path in sorted(run.logs.glob("*.csv"))]
    training = float(sum(log["seconds"].sum() for log in logs if "seconds" in log))
    metrics = {
        **{key: getattr(params, key) for key in ("experiment", "dataset", "aspect", "model", "variant")},
        "stage": params.stage,
        "seed": params.seed,
        **{key: value for key, value in own.items() if key not in ("rows", "templates")},
        "pixels": own["rows"].get(FLOOR),
        "closed_set": closed_set,
        "protocols": protocols,
        "left_out": left_out,
        "checkpoint_sha": encoder.sha,
        "assumed": encoder.origin if isinstance(encoder, GivenFeatures) else encoder.backbone.assumed,
        "run": params.run_id,
        "definitions": DEFINITIONS,
        "seconds": {"scoring": sum(each.seconds for each in assessments.values()), "training": training},
        "device": device,
        **describe_device(device),
        "precision": params.precision,
        **{key: facts[key] for key in ("git", "python", "system", "versions")},
    }
    for name in ("per_draw", "per_query"):
        parts = [getattr(each.own, name).reset_index().assign(protocol=p) for p, each in assessments.items()]
        table = pd.concat(parts, ignore_index=True)
        columns = ["protocol"] + [c for c in table if c not in ("protocol", "index")]
        write_csv(run.folder / f"{name}.csv", table[columns])
    write_csv(run.folder / "subgroups.csv", assessments[params.protocol].groups, index=True)
    write_json(run.folder / "metrics.json", metrics)
    refresh_leaderboard(project_path(params.outputs_root))
    return metrics


def ask_about_hand(
    run: Run, metrics: dict, encoder: Encoder, assessment: Assessment, embeddings: dict[str, Embeddings]
) -> HandTest:
    """Ask the run's own test again with changed photographs, and add what came of it to ``metrics.json``.

    Args:
        run: the run.
        metrics: what :func:`write_metrics` wrote.
        encoder: that made the embeddings.
        assessment: under the run's own protocol.
        embeddings: of at least the test images, the run's own first.

    Returns:
        Scores and masks; or why there are none, for features alone and for photographs of whole bodies.
    """
    if run.params.variant == EXTERNAL:
        asked = HandTest({"left_out": ONLY})
    elif run.params.aspect == BODY:
        asked = HandTest({"left_out": "the photographs show no hands but whole people"})
    else:
        own, encode = next(iter(embeddings.values())), partial(embed_changed, run, encoder)
        asked = hand_test.ask(run.photographs, encoder.backbone.image_size, assessment.manifest, own, encode)
    metrics[HAND_TEST] = asked.record
    write_json(run.folder / "metrics.json", metrics)
    return asked


def cross_aspects(run: Run, metrics: dict, embeddings: dict[str, Embeddings]) -> list[dict]:
    """Test a run of several aspects across them, and add what came of it to ``metrics.json``.

    Args:
        run: the run.
        metrics: what :func:`write_metrics` wrote.
        embeddings: of at least the test images, the run's own first.

    Returns:
        Rows as :func:`clipreid_lib.scores.crossing.cross` returns them, those within one aspect included; none for a
        run of one aspect.
    """
    crossed = crossing.cross(next(iter(embeddings.values())), run.table, run.params)
    within = {name.partition(", ")[2]: scores for name, scores in metrics["protocols"].items()}
    aspects = dict.fromkeys(row["asks"] for row in crossed)
    kept = ("identities", *(f"{score}{end}" for score in crossing.SCORES for end in ("", "_low", "_high")))
    rows = [
        {"asks": each, "shown": each, **{key: within[each][key] for key in kept}} for each in aspects if each in within
    ]
    metrics[ACROSS_ASPECTS] = sorted(rows + crossed, key=lambda row: (row["asks"], row["shown"]))
    write_json(run.folder / "metrics.json", metrics)
    return metrics[ACROSS_ASPECTS]


def write_thresholds(run: Run, assessment: Assessment, encoder: Encoder, embeddings: dict[str, Embeddings]) -> dict:
    """Learn thresholds and the log-likelihood ratio, and write them as the run's ``thresholds.json``.

    Args:
        run: the run.
        assessment: under the run's own protocol.
        encoder: that made the embeddings.
        embeddings: of at least the test images, the run's own first.

    Returns:
        What the file holds: ``checkpoint``, what :func:`clipreid_lib.scores.strangers.learn` returns, and as
        ``calibration`` what :func:`clipreid_lib.scores.calibration.learn` returns.
    """
    manifest, pairs, test = run.manifest, assessment.pairs, next(iter(embeddings.values()))
    held_out = held_pairs = None
    if manifest.validates_people:
        held_out = embed_own(run, encoder, manifest.validation)
        held_pairs = list_pairs(held_out, strangers.take_people(manifest, thresholds.VALIDATION))
    learned = {"checkpoint": encoder.sha, **strangers.learn(test, held_out, manifest)}
    learned["calibration"] = calibration.learn(keep_tested(pairs, manifest), held_pairs)
    write_json(run.folder / thresholds.FILE, learned)
    return learned
