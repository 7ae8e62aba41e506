"""The command line: ``clipreid run FILE...``, also as ``python -m clipreid_lib run FILE...``."""

import argparse
import signal
import sys

from clipreid_lib import compose
from clipreid_lib.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="clipreid", description="Hand-based person re-identification with CLIP.")
    verbs = top.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser(
        "run",
        help="execute the notebooks of every run in some params files",
        description="Compose params files left to right, expand lists into one run per combination, and execute "
        "each run's notebooks by papermill. What is already done is not done again.",
    )
    run.add_argument("files", nargs="+", metavar="FILE", help="params files, for example params/demo.yaml")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key; [a,b] makes a list"
    )
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default 1)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 well, 1 a run failed, 2 a mistake in what was asked."""
    given = parser().parse_args(arguments)
    try:
        if given.jobs < 1:
            raise UserError(f"--jobs {given.jobs}: give at least 1")
        runs = compose.expand(*compose.compose(given.files, given.set))
        from clipreid_lib.batch import Batch  # here, so that a typing mistake is told at once

        for ending in ("SIGTERM", "SIGHUP"):  # a scheduler's or a closed terminal's: end as Ctrl-C does
            if hasattr(signal, ending):
                signal.signal(getattr(signal, ending), signal.default_int_handler)

        print(f"to run: {', '.join(run.run_id for run in runs)}", flush=True)
        failed = Batch(runs, given.jobs).run()
    except UserError as error:
        print(f"clipreid: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nclipreid: stopped; the same command goes on where this one was", file=sys.stderr)
        return 130
    if failed:
        names = ", ".join(run.folder.name for run in failed)
        print(f"clipreid: {len(failed)} of {len(runs)} runs failed: {names}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
