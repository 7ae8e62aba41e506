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
from clipreid_lib.params.check import validate_params
from clipreid_lib.params.image_sizes import parse_size, spell
from clipreid_lib.params.schema import project_path


def check(
    dataset: str, root: str | None, aspect: str | None, protocol: str | None, allow_missing: bool, burst_gap: int
) -> int:
    """Print what a data set holds and what is wrong with it; arguments as `clipreid data check --help` explains them.

    Returns:
        The exit status: 0 where nothing is wrong, else 1.

    Raises:
        UserError: the data set cannot be read at all.
    """
    summary, folder = datasets.summary(dataset), _find_folder(dataset, root)
    table = datasets.load_images(dataset, folder, allow_missing=True, burst_gap=burst_gap)
    protocol, there = protocol or summary.protocol, sorted(table["aspect"].unique())
    for given, allowed, key in ((protocol, protocols.PROTOCOLS, "--protocol"), (aspect, (None, *there), "--aspect")):
        if given not in allowed:  # told before thousands of images are opened
            raise UserError(f"{key} {given}: unknown; allowed: {', '.join(filter(None, allowed))}")
    print(f"{summary.title}\nlicence: {summary.licence}\ncite: {summary.citation}\nread from: {folder}\n")
    print(audit.format_counts(audit.count_images(table, summary)).to_string())
    seen = inspect(table, folder)
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


def prepare(dataset: str, root: str | None, sizes: list[str], outputs: str, allow_missing: bool, resize: str) -> int:
    """Decode a data set into the image store, without what is there; arguments as `clipreid data prepare --help`.

    Returns:
        The exit status: 0 well, 1 where an image could not be read (the others are prepared).

    Raises:
        UserError: the data set cannot be read, a size makes no sense, or the disk is too small.
    """
    folder = _find_folder(dataset, root, outputs)
    pairs = sorted({parse_size(size, "--size") for size in sizes})
    if small := [spell(size) for size in pairs if min(size) < 16]:
        raise UserError(f"--size {small[0]}: give at least 16 pixels")
    table = datasets.load_images(dataset, folder, allow_missing=allow_missing)
    photographs = Photographs(folder, project_path(outputs) / STORE, resize)
    failed: dict[str, str] = {}
    for size in pairs:
        store = photographs.at(size, make=True)
        assert store is not None  # it is to be made
        _check_space(store, len(table))

        def one(path: str, store: ImageStore = store) -> bool:
            try:
                return store.prepare(folder / path)
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


def _find_folder(dataset: str, root: str | None, outputs: str = "outputs") -> Path:
    if root is None and dataset == "demo":
        return draw_demo(validate_params({"dataset": "demo", "aspect": "dorsal_r"}), project_path(outputs))
    return project_path(root or f"data/{dataset}")


def _check_space(store: ImageStore, images: int) -> None:
    needed = (images - sum(1 for _ in store.folder.rglob("*.u8"))) * store.bytes_each
    free = shutil.disk_usage(next(parent for parent in store.folder.parents if parent.exists())).free
    if needed > free:
        raise UserError(f"{store.folder}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there")
