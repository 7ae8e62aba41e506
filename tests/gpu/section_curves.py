"""6 curves: training in bf16 ends where training in float32 does."""

import statistics
from collections.abc import Iterator

import torch
from place import Place, make_terms
from verdicts import Row, judge

from clipreid_lib.clip.encode import encode
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.scores.metrics import score_retrieval

LOSS = 3.0  # per cent
SMALL = {"lr": 1e-3, "head_lr": 3e-3, "batch_size": 32}  # the embedded model's own rates


def rows(place: Place) -> Iterator[Row]:
    """Train the embedded model from several seeds, which learns from its own weights, and a ViT-B-16 for its loss."""
    seeds, epochs = place.pick((0, 1, 2), (0, 1)), place.pick(10, 2)
    found = {form: [train(place, "embedded", form, epochs, seed) for seed in seeds] for form in ("float32", "bf16")}
    yield compare_losses("embedded", found)
    ranks = {form: [100 * rank for _, rank in each] for form, each in found.items()}
    full, half = (statistics.mean(ranks[form]) for form in ("float32", "bf16"))
    one = 100 / place.pick(24 * 11, 4 * 3)  # one query more or less
    spread = max(max(ranks["float32"]) - min(ranks["float32"]), one)
    yield judge(
        "embedded: rank-1 in bf16",
        abs(half - full),
        "points",
        beside=f"{half:.1f} and {full:.1f} %",
        at_most=spread,
        note=f"the limit is what {len(seeds)} seeds lie apart in float32, at least one query",
    )
    if not place.rehearse:
        big = {form: [train(place, "vitb16", form, 3, 0)] for form in ("float32", "bf16")}
        yield compare_losses("vitb16", big)


def train(place: Place, model: str, precision: str, epochs: int, seed: int) -> tuple[float, float]:
    """Return the last epoch's loss, and rank-1 on people who were not trained on."""
    clip = place.load(model)
    images, labels = place.hands(clip)
    rates = SMALL if model == "embedded" else {}
    settings = EncoderSettings(epochs=epochs, precision=precision, seed=seed, **rates)
    _, log = finetune(clip, images, labels, make_terms(clip, "clipid", labels), settings)
    pixels, people = place.hands(clip, "test")
    embedding, whose = encode(clip, pixels).embedding, torch.tensor(people)
    first = torch.cat([torch.ones(1, dtype=torch.bool), whose[1:] != whose[:-1]])  # each one's gallery image
    scores = score_retrieval(embedding[~first], whose[~first], embedding[first], whose[first])
    return float(log["loss"].iloc[-1]), scores.at[1]


def compare_losses(model: str, found: dict[str, list[tuple[float, float]]]) -> Row:
    """Compare the means over seeds."""
    full, half = (statistics.mean(loss for loss, _ in found[form]) for form in ("float32", "bf16"))
    said = f"{half:.4f} and {full:.4f}"
    return judge(f"{model}: last loss in bf16", 100 * abs(half - full) / full, "%", beside=said, at_most=LOSS)
