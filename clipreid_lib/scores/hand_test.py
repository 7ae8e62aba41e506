"""Is it the hand? The very same test, asked again with changed photographs.

A network may find people by the backdrop, the light or the camera of one session. So a protocol is asked again, with
the same embedding and plain cosine, while one thing is taken out of every photograph. Xiao et al. (2021), "Noise or
signal: the role of image backgrounds in object recognition", ask this of ImageNet.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from clipreid_lib.base.errors import UnreadableImage, UserError
from clipreid_lib.clip.encode import BATCH
from clipreid_lib.data.changed_pixels import CHANGES, change_all
from clipreid_lib.data.hand_mask import Found
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.photographs import Photographs, on_all_cores
from clipreid_lib.scores import expectation, uncertainty
from clipreid_lib.scores.comparison import estimate
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.hand_table import tabulate
from clipreid_lib.scores.score_names import name_interval, replace_nan

AT_ONCE = 4 * BATCH  # photographs in memory with all their changes: 0.6 GB at 224
SAMPLES = 24  # masks to look at, and as many of those refused


@dataclass(frozen=True)
class HandTest:
    """What came of it.

    Attributes:
        record: as ``metrics.json`` keeps it: ``left_out``, a sentence, where nothing was asked; else ``images``,
            ``refused`` (images without a mask to trust, by reason) and ``rows``, the scores by change.
        samples: path, pixels (H, W, 3) as the network gets them, and what was found, of some photographs.
    """

    record: dict
    samples: list[tuple[str, np.ndarray, Found]] = field(default_factory=list)

    @property
    def table(self) -> pd.DataFrame:
        """The record as a table to read."""
        return tabulate(self.record)


def ask(
    photographs: Photographs,
    size: int | tuple[int, int],
    manifest: Manifest,
    unchanged: Embeddings,
    encode: Callable[[pd.DataFrame, torch.Tensor], Embeddings],
) -> HandTest:
    """Ask a protocol's test again with every change of :data:`~clipreid_lib.data.changed_pixels.CHANGES`.

    Images whose mask is refused are left out of the changes that need one, as queries and in the gallery, and of what
    those are compared with: both sides of a difference answer the same queries over the same galleries.

    Args:
        photographs: the data set's image files.
        size: of the network's input.
        manifest: the protocol.
        unchanged: embeddings of at least all images that it tests.
        encode: embeds images, given their rows and changed pixels, as ``unchanged`` was embedded.

    Returns:
        Scores, differences and samples, or why there are none: a photograph is gone.
    """
    images = manifest.in_tests.drop_duplicates("path")
    asks, found = (images["role"] == "test").to_numpy(), []
    parts: dict[str, list[Embeddings]] = {name: [] for name in CHANGES}
    try:
        for start in range(0, len(images), AT_ONCE):
            some = images.iloc[start : start + AT_ONCE]
            pixels = photographs.load(some, size).transpose(0, 2, 3, 1)
            pictures = list(on_all_cores(lambda pair: change_all(*pair), zip(pixels, some["path"], strict=True)))
            found += [each for each, _ in pictures]
            for name, change in CHANGES.items():
                kept = np.array([name in made for _, made in pictures])
                kept &= asks[start : start + AT_ONCE] | (not change.queries_only)
                if kept.any():
                    shown = np.stack([pictures[row][1][name].transpose(2, 0, 1) for row in np.flatnonzero(kept)])
                    parts[name].append(encode(some[kept], torch.from_numpy(shown)))
    except UnreadableImage as error:
        return HandTest({"left_out": f"the photographs are needed again: {error}"})
    refused = np.array([bool(each.refused) for each in found])
    trusted = Manifest(manifest.images[~manifest.images["path"].isin(images["path"][refused])])
    before: dict[bool, pd.DataFrame] = {}
    rows: dict[str, dict] = {}
    for name, change in CHANGES.items():
        fewer = bool(change.masked and refused.any())
        asked = trusted if fewer else manifest
        try:
            if asked.test["identity"].nunique() < 2:
                raise UserError("fewer than two people have photographs left")
            if fewer not in before:
                before[fewer] = _score(unchanged, asked)
            made = parts[name]
            seen = Embeddings(sum((each.paths for each in made), []), torch.cat([each.values for each in made]))
            scored = _score(unchanged, asked, seen) if change.queries_only else _score(seen, asked)
            rows[name] = compare_changed(scored, before[fewer])
            rows[name] |= {"images": len(images) - fewer * int(refused.sum()), "chance": find_chance(asked)}
        except UserError as error:  # too few photographs are left for a test
            rows[name] = {"left_out": str(error)}
    reasons = dict(Counter(each.refused for each in found if each.refused))
    record = {"protocol": manifest.protocol, "images": len(images), "refused": reasons, "rows": rows}
    chosen = [np.flatnonzero(each)[:: max(1, -(-int(each.sum()) // SAMPLES))] for each in (~refused, refused)]
    rows_shown = np.concatenate(chosen)
    pixels = photographs.load(images.iloc[rows_shown], size).transpose(0, 2, 3, 1)
    samples = [(images["path"].iloc[row], picture, found[row]) for row, picture in zip(rows_shown, pixels, strict=True)]
    return HandTest(record, samples)


def _score(embeddings: Embeddings, manifest: Manifest, asking: Embeddings | None = None) -> pd.DataFrame:
    """Return ``per_query`` of an evaluation; where all galleries can be gone through, without its draws."""
    if expectation.is_expectable(manifest):
        return expectation.expect(embeddings, manifest, asking=asking).per_query
    return evaluate(embeddings, manifest, asking=asking).per_query


def compare_changed(changed: pd.DataFrame, unchanged: pd.DataFrame) -> dict:
    """Return rank-1 and mAP of changed photographs and their difference to the unchanged ones, from ``per_query``.

    Returns:
        ``people``; for each score its mean, ``_low``, ``_high``; ``_unchanged``; ``_difference`` (changed minus
        unchanged) with ``_low``, ``_high``; and ``_p`` of the sign-flip test over people.

    Raises:
        UserError: they answer other queries, or nobody asks.
    """
    answered = changed[changed["rank1"].notna() & (changed["weight"] > 0)]
    if answered.empty:
        raise UserError("nobody has two photographs left")
    found: dict = {"people": int(answered["identity"].nunique())}
    for score, (difference, p) in estimate(changed, unchanged, "unchanged").items():
        now, before = (
            uncertainty.estimate_mean(each[score], each["identity"], each["weight"]) for each in (changed, unchanged)
        )
        found |= name_interval(score, now) | {f"{score}_unchanged": before[0], f"{score}_p": p}
        found |= name_interval(f"{score}_difference", (difference.mean, difference.low, difference.high))
    return replace_nan(found)


def find_chance(manifest: Manifest) -> float:
    """Return the rank-1 of guessing: the share of a gallery's images that show the person asked for, the mean."""
    if expectation.is_expectable(manifest):
        return float(1 / expectation.find_chances(manifest)[2].sum())
    shares = []
    for index in range(manifest.draws):
        query, gallery = manifest.draw(index)
        person, camera = (
            np.equal.outer(query[key].to_numpy(), gallery[key].to_numpy()) for key in ("identity", "camera")
        )
        hidden = person & camera & manifest.same_camera_rule  # (Q, G)
        shown, size = (person & ~hidden).sum(axis=1), (~hidden).sum(axis=1)
        shares += (shown / size)[shown > 0].tolist()
    return float(np.mean(shares))
