"""The command line's ``data`` verbs: check a data set, or decode it ahead of training."""

import shutil
import time
from pathlib import Path

from tqdm import tqdm

from clipreid_lib.base.errors import TooFewPeople, UnreadableImage, UserError
from clipreid_lib.data import audit, datasets, protocols
from clipreid_lib.data.image_store import STORE, ImageStore
from clipreid_lib.data.inspection import inspect
from clipreid_lib.data.photographs import Photographs, on_all_cores
from clipreid_lib.embedded.synthetic_hands import draw_demo
from clipreid_lib.params.image_sizes import parse_size, spell
from clipreid_lib.params.schema import BURST_GAP, project_path, validate_params


def check(
    dataset: str,
    root: str | Path | None,
    aspect: str | None = None,
    protocol: str | None = None,
    allow_missing: bool = False,
    burst_gap: int = BURST_GAP,
) -> int:
    """Print what a data set holds and what is wrong with it.

    Args:
        dataset: its name.
        root: its folder; None takes ``data/<dataset>``, and ``demo`` draws its own.
        aspect: the aspect to apply the protocol to; all of them where None.
        protocol: None takes the one the data set's papers use.
        allow_missing: absent images are known about and no fault.
        burst_gap: see ``params/base.yaml``.

    Returns:
        The exit status: 0 where nothing is wrong, else 1.

    Raises:
        UserError: the data set cannot be read at all.
    """
    summary, root = datasets.summary(dataset), _root(dataset, root)
    table = datasets.load_images(dataset, root, allow_missing=True, burst_gap=burst_gap)
    protocol, there = protocol or summary.protocol, sorted(table["aspect"].unique())
    for given, allowed, key in ((protocol, protocols.PROTOCOLS, "--protocol"), (aspect, (None, *there), "--aspect")):
        if given not in allowed:  # told before thousands of images are opened
            raise UserError(f"{key} {given}: unknown; allowed: {', '.join(filter(None, allowed))}")
    print(f"{summary.title}\nlicence: {summary.licence}\ncite: {summary.citation}\nread from: {root}\n")
    print(audit.format_counts(audit.count_images(table, summary)).to_string())
    seen = inspect(table, root)
    found = audit.judge_images(table, seen, summary, allow_missing)
    validation = "published" if summary.published and protocol == summary.protocol != "given" else "none"
    built = 0
    for each in [aspect] if aspect else there:
        try:
            manifest = protocols.build(table, protocol, each, validation=validation)
        except TooFewPeople as error:  # of one aspect, which is no fault of the others
            found.append(audit.Finding("protocol", f"{protocol} is left out; {error}"))
            continue
        except UserError as error:
            found.append(audit.Finding("protocol", f"{each} under {protocol}: {error}", wrong=True))
            continue
        built += 1
        print(f"\n{each} under {protocol}, draw 0")
        print(audit.format_counts(audit.count_parts(manifest, each, summary)).to_string())
        found += audit.judge_protocol(manifest, each, table, seen, summary)
    if not built:
        found.append(audit.Finding("protocol", f"{protocol} can be applied to no aspect there is", wrong=True))
    print("", *audit.format_findings(found), sep="\n")
    return int(any(finding.wrong for finding in found))


def prepare(
    dataset: str,
    root: str | Path | None,
    sizes: list[str],
    outputs: str = "outputs",
    allow_missing: bool = False,
    resize: str = "squash",
) -> int:
    """Decode every image of a data set into the image store; what is there already is not decoded again.

    Args:
        dataset: its name.
        root: its folder, as for :func:`check`.
        sizes: as params spell ``image_size``, each ``N`` or ``HEIGHTxWIDTH``.
        outputs: the outputs folder whose runs will read the store.
        allow_missing: work with a partial download.
        resize: ``squash`` or ``crop``, as in the params of those runs.

    Returns:
        The exit status: 0 well, 1 where an image could not be read (the others are prepared).

    Raises:
        UserError: the data set cannot be read, a size makes no sense, or the disk is too small.
    """
    root = _root(dataset, root, outputs)
    pairs = sorted({parse_size(size, "--size") for size in sizes})
    for size in pairs:
        if min(size) < 16:
            raise UserError(f"--size {spell(size)}: give at least 16 pixels")
    table = datasets.load_images(dataset, root, allow_missing=allow_missing)
    photographs = Photographs(root, project_path(outputs) / STORE, resize)
    failed: dict[str, str] = {}
    for size in pairs:
        store = photographs.at(size, make=True)
        assert store is not None  # it is to be made
        _check_space(store.folder, len(table), store.bytes_each)

        def one(path: str, store: ImageStore = store) -> bool:
            try:
                return store.prepare(root / path)
            except UnreadableImage as error:
                failed[path] = str(error)
                return False

        began, new = time.perf_counter(), on_all_cores(one, table["path"])
        decoded = sum(tqdm(new, total=len(table), desc=f"{spell(size)} px", unit="image", disable=None))
        seconds = time.perf_counter() - began
        there = len(table) - decoded - len(failed)
        print(
            f"{spell(size)} px: {decoded:,} images decoded, {there:,} there already, in {seconds:.1f} s "
            f"({len(table) / seconds:,.0f} images a second); {store.folder}"
        )
    for problem in failed.values():
        print(f"WRONG  unreadable: {problem}")
    return int(bool(failed))


def _root(dataset: str, root: str | Path | None, outputs: str = "outputs") -> Path:
    if root is None and dataset == "demo":
        return draw_demo(validate_params({"dataset": "demo", "aspect": "dorsal_r"}), project_path(outputs))
    return project_path(str(root or f"data/{dataset}"))


def _check_space(folder: Path, images: int, size: int) -> None:
    needed = (images - sum(1 for _ in folder.rglob("*.u8"))) * size
    free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    if needed > free:
        raise UserError(f"{folder}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there")
