"""The page of a fusion: what was fused, the table, curves, and questions on which fusion and best single run differ."""

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipreid_lib.base.errors import counted
from clipreid_lib.pages import gallery, report_blocks, score_figures, style
from clipreid_lib.pages.ranking import Ranking, name_aspect, name_person
from clipreid_lib.pages.style import PALE, RIGHT, WRONG
from clipreid_lib.pages.thumbnails import FRAME, draw_frame, open_small
from clipreid_lib.scores.comparison import COMPARED, compare
from clipreid_lib.scores.evaluation import compare_draw
from clipreid_lib.scores.fusion import Fused, Questions
from clipreid_lib.scores.score_names import format_score, format_share
from clipreid_lib.scores.thresholds import TEST

SHOWN, PEOPLE = 3, 5  # questions of either kind on the sheet, and people of each
SCORES = tuple(COMPARED.values())  # that gains are of


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        name: of the result.
        records: of each run: its id, params, and the line to its LLR.
        questions: that all were asked.
        rows: scores by row of the table: the sum of LLRs, the mean of cosines, and each run alone.
        root: folder of the photographs.
    """

    name: str
    records: list[dict]
    questions: Questions
    rows: dict[str, Fused]
    root: Path

    @property
    def fused(self) -> Fused:
        """The sum of LLRs."""
        return next(iter(self.rows.values()))

    @property
    def alone(self) -> list[str]:
        """The rows of the runs alone, in the order of the records."""
        return [*self.rows][-len(self.records) :]

    @property
    def best(self) -> str:
        """The row of the single run with the highest rank-1; the first of equal ones."""
        return max(self.alone, key=lambda row: self.numbers[row]["rank1"])

    @cached_property
    def numbers(self) -> dict[str, dict]:
        """Every number of each row, flat."""
        return {row: each.flat for row, each in self.rows.items()}

    @cached_property
    def rankings(self) -> tuple[Ranking, Ranking]:
        """Draw 0 by the sum of LLRs, and by the best single run."""
        one, other = (compare_draw(each.embeddings, each.manifest, 0) for each in (self.fused, self.rows[self.best]))
        return Ranking(*one), Ranking(*other)

    @cached_property
    def apart(self) -> tuple[np.ndarray, np.ndarray]:
        """Queries of draw 0 on which the sum alone is right, and the best single run alone; the clearest first."""
        mine, its = (ranking.first_hit() for ranking in self.rankings)
        gained, lost = np.flatnonzero((mine == 1) & (its > 1)), np.flatnonzero((mine > 1) & (its == 1))
        return gained[np.argsort(-its[gained], kind="stable")], lost[np.argsort(-mine[lost], kind="stable")]


def tabulate(page: Page) -> pd.DataFrame:
    """Return the table as text: scores in per cent, Cllr in bits, and the fusion's gain over each other row."""
    first, *others = page.rows
    queries = {row: each.own.per_query for row, each in page.rows.items()}
    gains = compare(queries[first], {row: queries[row] for row in others})
    found = {}
    for row, each in page.numbers.items():
        mine = gains.loc[f"over {row}"] if row in others else dict.fromkeys(gains, "")
        found[row] = {
            "rank-1": format_share(each["rank1"]),
            "rank-5": format_share(each["rank5"]),
            "mAP": format_score(each, "map"),
            "EER": format_score(each, "eer"),
            "Cllr": _write_bits(each["cllr"]),
            "Cllr-min": _write_bits(each["cllr_min"]),
            **{f"{'gain, ' if name in SCORES else ''}{name}": mine[name] for name in gains},
        }
    return pd.DataFrame(found).T


def explain(page: Page) -> list[str]:
    """Say in sentences what the table is of, and what it cannot say."""
    first, *_ = page.rows
    left, tested = page.questions.left_out, page.fused.numbers["identities"]
    said = [
        f"Per cent, mean over {page.fused.own.over} of {tested} people; Cllr in bits. The gain is the {first} less the "
        "row, in points [95 % interval over people], p by sign flips, for each row by itself.",
    ]
    if left:
        said.append(
            "A question joins one photograph of each aspect, and no photograph stands in two. Left out: people who are "
            f"not tested in every aspect ({left['missing']}), people with one photograph alone in an aspect "
            f"({left['few']}), photographs beyond those of the aspect with the fewest ({left['images']})."
        )
    themselves = [row for row, each in zip(page.alone, page.records, strict=True) if each["learned_from"] == TEST]
    taught = "The lines to the LLR were learned from"
    if len(themselves) < len(page.alone):
        taught += " validation people, none of whom is asked about here."
        taught += f" Of {', '.join(themselves)} it was learned from" if themselves else ""
    if themselves:
        taught += (
            " the test people themselves, so the weights of the sum and its Cllr may look better than they are on "
        )
        taught += "other people."
    said.append(taught)
    alike = [aspect for aspect, number in Counter(each["aspect"] for each in page.records).items() if number > 1]
    told = "The sum takes the scores for independent"
    told += f", and those of one photograph ({', '.join(alike)}) are not" if alike else ""
    said.append(
        f"{told}. Where they are not, it is over-confident: its Cllr then lies far above its Cllr-min, and it is no "
        "LLR to rely on. The mean of cosines is no LLR at all and has Cllr-min alone."
    )
    return said


def draw_pictures(page: Page, folder: Path) -> None:
    """Draw ``cmc.png``, ``scores.png`` and, where fusion and best single run differ, ``questions.png``."""
    style.use()
    curves = {style.escape(row): each.own.cmc for row, each in page.rows.items()}
    style.save_figure(score_figures.draw_cmc(curves), folder / "cmc.png")
    pairs = page.fused.pairs.assign(score=page.fused.find_ratio(page.fused.pairs["score"]))
    style.save_figure(score_figures.draw_score_distributions(pairs, "sum of LLRs"), folder / "scores.png")
    (folder / "questions.png").unlink(missing_ok=True)
    if any(map(len, page.apart)):
        style.save_image(_draw_questions(page), folder / "questions.png")


def _draw_questions(page: Page) -> Image.Image:
    """Draw a row per question: the photographs that ask, then the first people of the sum, a tile each."""
    ranking, single = page.rankings
    person, rows = ranking.query["identity"], []
    chosen = [kind[~person.iloc[kind].duplicated()][:SHOWN] for kind in page.apart]
    for q in np.concatenate(chosen).tolist():
        query = ranking.query.iloc[q]
        asking = page.questions.parts.loc[query["path"]]
        tiles = [gallery.Tile(page.root / path, ["asks", name_aspect(aspect)]) for aspect, path in asking.items()]
        for place, each in enumerate(ranking.row(q, PEOPLE)[0]):
            image = ranking.gallery.iloc[each.position]
            photographs = _put_together([page.root / path for path in page.questions.parts.loc[image["path"]]])
            captions = [f"{each.rank}. LLR {page.fused.find_ratio(each.score):+.1f}", name_person(image)]
            captions += each.note.splitlines()
            colour = RIGHT if each.right else WRONG
            tiles.append(gallery.Tile(photographs, captions, colour, each.right, gallery.GAP * (place == 0)))
        ranks = ranking.first_hit()[q], single.first_hit()[q]
        head = f"{name_person(query)}: rank {ranks[0]} by the sum, rank {ranks[1]} by {page.best} alone"
        rows.append((head, tiles))
    return gallery.draw_rows(rows)


def _put_together(paths: list[Path]) -> Image.Image:
    """Put a person's photographs into one picture, in as many columns as leave them largest in a square."""
    images = [open_small(path, gallery.TILE) for path in paths]
    sizes = [image.size for image in images if not isinstance(image, str)] or [(gallery.TILE, gallery.TILE)]
    wide, high = (max(side) for side in zip(*sizes, strict=True))
    number = len(images)
    columns = min(range(1, number + 1), key=lambda n: max(n * wide, math.ceil(number / n) * high))
    step = wide + 2 * FRAME, high + 2 * FRAME
    canvas = Image.new("RGB", (columns * step[0], math.ceil(number / columns) * step[1]), PALE)
    for place, image in enumerate(images):
        corner = place % columns * step[0], place // columns * step[1]
        draw_frame(canvas, corner, image, (wide, high), PALE)
    scale = gallery.TILE / max(canvas.size)
    return canvas.resize((round(canvas.width * scale), round(canvas.height * scale)), Image.Resampling.BICUBIC)


def lay_out(page: Page, folder: Path) -> str:
    """Return the page as HTML that will lie in ``folder``, from the pictures in ``figures`` there."""
    sections = [
        report_blocks.make_section("Scores", _show_scores, page),
        report_blocks.make_section("What was fused", _show_runs, page),
        report_blocks.make_section("Curves", _show_curves, page, folder),
        report_blocks.make_section("Questions to look at", _show_questions, page, folder),
        report_blocks.make_section("How to repeat it", _show_repeat, page),
    ]
    about = f"{page.questions.manifest.dataset}, {', '.join(page.questions.parts)}"
    lead = [
        f"{counted(len(page.records), 'run')} on {about}, asked together: each run's cosine is turned into a "
        "log-likelihood ratio (LLR), and the ratios are added."
    ]
    return report_blocks.render(page.name, lead, sections, [folder, folder.parents[1], page.root])


def _show_scores(page: Page) -> list:
    return [
        report_blocks.Table.of(tabulate(page).map(report_blocks.stack)),
        *map(report_blocks.Words, explain(page)),
    ]


def _show_runs(page: Page) -> list:
    keys = {key: key.replace("_", " ") for key in ("run", "aspect", "variant", "model", "seed", "learned_from")}
    table = pd.DataFrame(page.records, index=page.alone)[[*keys]].rename(columns=keys)
    table["LLR"] = [f"{each['slope']:.2f} × cosine {each['intercept']:+.2f}" for each in page.records]
    return [report_blocks.Table.of(table)]


def _show_curves(page: Page, folder: Path) -> list:
    cmc = f"CMC, mean over {page.fused.own.over}."
    scores = "The sum of LLRs, of pairs that show one person and of pairs that show two."
    figures = folder / "figures"
    made = [report_blocks.embed(figures / name, said) for name, said in (("cmc.png", cmc), ("scores.png", scores))]
    return [report_blocks.Figures(made)]


def _show_questions(page: Page, folder: Path) -> list:
    gained, lost = map(len, page.apart)
    asked = len(page.fused.manifest.draw(0)[0])
    said = (
        f"Of {asked:,} questions of draw 0, the sum alone names the right person first on {gained}, and the best "
        f"single run ({page.best}) alone on {lost}."
    )
    if not gained + lost:
        return [report_blocks.Words(said)]
    rule = f"Shown are up to {SHOWN} of each, one per person, those where the other finds the person latest."
    caption = f"The photographs that ask, then the first {PEOPLE} people by the sum of LLRs, each by the photographs "
    caption += "that are enrolled. A tick marks the right person, a cross a wrong one."
    figure = report_blocks.embed(folder / "figures" / "questions.png", caption)
    return [report_blocks.Words(f"{said} {rule}"), report_blocks.Figures([figure])]


def _show_repeat(page: Page) -> list:
    runs = " ".join(shlex.quote(f"runs/{each['run']}") for each in page.records)
    return [report_blocks.Words("Where the runs lie:"), report_blocks.Command(f"clipreid fuse {runs} --as {page.name}")]


def _write_bits(cost: float | str) -> str:
    return cost if isinstance(cost, str) else f"{cost:.3f}"
