"""`make bench`: one table of what the library does against the plain way of doing it.

::

    python tests/benchmarks/bench.py [NAME ...]      some rows: ranking, image_store, ...

Each benchmark has a process of its own, so that one's memory and threads are not another's; the two things of a row
share that process. The table goes to outputs/bench/ as well.
"""

import argparse
import contextlib
import importlib
import io
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import table
from rows import Row

from clipreid_lib.params.schema import ROOT

NAMES = (
    *("prompt_epoch", "encoder_step", "augment", "ranking", "expectation", "reranking", "image_store", "encode_once"),
    *("grid_jobs", "start_up", "identify", "fusion"),
)


def measured(name: str) -> list[Row]:
    """Do one benchmark; what the library prints meanwhile is not for the table."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(f"bench_{name}").rows()


def main() -> None:
    """Print the table row by row and save it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all, {', '.join(NAMES)}")
    names = parser.parse_args().names
    if unknown := set(names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: no such benchmark; there are {', '.join(NAMES)}")
    machine, rows = table.machine_in_words(), []
    print(table.line(table.HEADER), flush=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as own:
        for name in names or NAMES:
            for row in own.submit(measured, name).result():
                rows.append(row)
                print(table.line(table.cells(row)), flush=True)
    print("\n" + table.below(rows, machine))
    kept = table.keep(ROOT / "outputs" / "bench", "-".join(names) or "bench", rows, machine)
    print(f"saved as {' and '.join(str(path.relative_to(ROOT)) for path in kept)}")


if __name__ == "__main__":
    main()
