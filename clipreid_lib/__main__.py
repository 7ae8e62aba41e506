"""The command line, ``clipreid``: one verb for each thing to do; ``clipreid --help`` lists them."""

import argparse
import codecs
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.params import read
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import ASPECTS, BURST_GAP, NOTEBOOKS, project_path
from clipreid_lib.runs import clean, plan, preflight, slurm, status


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as every mistake's is."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint."""
        raise UserError(f"{message}; `{self.prog} --help` lists the options")


def _notebook(text: str) -> str:
    found = [name for name in NOTEBOOKS if name == text or name.startswith(f"{text}_")]
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(NOTEBOOKS)}")
    return found[0]


def _count(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: give at least {least}")
    return int(text)


SLURM: dict[str, tuple[Callable[[str], object], str]] = {  # options of that backend alone
    "partition": (str, "default: the cluster's"),
    "time": (partial(_count, least=2), "minutes, at least 2; a run that needs more is requeued and goes on"),
    "gpus": (partial(_count, least=0), "per job"),
    "memory": (_count, "gigabytes per job"),
    "cpus": (_count, "cores per job"),
    "max_running": (_count, "jobs at once"),
}


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of faults")
    top = Parser(prog="clipreid", description="Hand-based person re-identification with CLIP.", parents=[common])
    verbs = top.add_subparsers(dest="verb", required=True)

    def add(name: str, what: str, to: argparse._SubParsersAction = verbs) -> argparse.ArgumentParser:
        return to.add_parser(name, parents=[common], help=what, description=what)

    planned = add("plan", "say what run would do: notebooks to execute, notebooks to copy; nothing starts")
    run = add("run", "execute the notebooks of every run in some params files; what is done is not done again")
    override = "override one key, the value as it stands; [a,b] makes a list"
    for verb in (planned, run):
        verb.add_argument("files", nargs="+", metavar="FILE", help="params files, for example params/demo.yaml")
        verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=override)
        verb.add_argument("--jobs", type=_count, default=1, metavar="N", help="runs at once (default 1)")
        verb.add_argument("--yes", action="store_true", help="a grid of more than 100 combinations is meant")
    again = "do this one (its number will do) and the run's later ones again although they are finished"
    run.add_argument("--force", action="append", default=[], type=_notebook, metavar="NOTEBOOK", help=again)
    best = "train the grid, rank it by validation people (map or rank1), test the best combination alone"
    run.add_argument("--choose", metavar="SCORE", help=best)
    run.add_argument("--backend", choices=("local", "slurm"), default="local", help="where (default: this machine)")
    cluster = run.add_argument_group("--backend slurm", "What each job asks for. One array, a job per run.")
    for option, (kind, what) in SLURM.items():
        name = f"--{option.replace('_', '-')}"
        cluster.add_argument(name, type=kind, metavar="NAME" if kind is str else "N", help=what)
    shown = add("status", "say how far every run is; from another terminal or machine, at any time")
    asked = add(
        "identify", "list the people who are most like those on photographs, and compare the first with a threshold"
    )
    asked.add_argument("run", metavar="RUN", help="a run folder, or a frozen backbone: embedded, vitb16, ...")
    asked.add_argument("photographs", nargs="+", metavar="PHOTO", help="each shows one person")
    source = "a folder (PERSON/IMAGE, PERSON/ASPECT/IMAGE or a CSV), DATASET[:ASPECT]=FOLDER, or a saved gallery "
    asked.add_argument(
        "--gallery", metavar="SOURCE", help=f"{source}(default: the gallery that the run is tested with)"
    )
    asked.add_argument("--top", type=_count, default=5, metavar="K", help="people to name (default 5)")
    rate = "say a name where at most this share of searches for strangers would get one (default 0.01)"
    asked.add_argument("--fpir", type=float, default=0.01, metavar="R", help=rate)
    one = "all photographs show one unknown person; a score is the mean of the photographs' scores"
    asked.add_argument("--together", action="store_true", help=one)
    asked.add_argument("--json", dest="as_json", action="store_true", help="print JSON, no table")
    asked.add_argument("--out", metavar="FOLDER", help="of the sheets and their page (default outputs/identify)")
    anew = "enrol the gallery although it was done before: its photographs or the network have changed"
    asked.add_argument("--again", action="store_true", help=anew)
    forgotten = add("forget", "remove a person's embeddings, pictures and rows from kept galleries")
    forgotten.add_argument("person", metavar="PERSON", help="as identify names them")
    forgotten.add_argument("files", nargs="+", metavar="GALLERY", help="files that identify says it keeps")
    cleaned = add("clean", "list what can be made again, and delete it with --yes; results stay")
    cleaned.add_argument("--yes", action="store_true", help="delete")
    across = add("across", "test runs on the aspects and data sets of one another, under protocol common")
    across.add_argument("runs", nargs="*", metavar="RUN", help="default: every evaluated run of protocol common")
    more = "one more data set to test on; NAME:ASPECT too"
    across.add_argument("--on", action="append", default=[], metavar="NAME=FOLDER", help=more)
    compare = add(
        "compare", "set methods against each other on the same queries, over all seeds: the ladder's questions"
    )
    either = (
        "two, each a run folder or a filter such as variant=clipid,aspect=dorsal_r (default: the ladder's questions)"
    )
    compare.add_argument("chosen", nargs="*", metavar="RUN", help=either)
    fuse = add("fuse", "score finished runs together, over aspects of the hand or over encoders, and write a page")
    fuse.add_argument("runs", nargs="+", metavar="RUN", help="folders of two or more evaluated runs on the same data")
    fuse.add_argument("--as", dest="name", metavar="NAME", help="what folder and leaderboard call the result")
    report = add("report", "write RUN/report.html for every run, and one page for all of them into reports/")
    report.add_argument("runs", nargs="*", metavar="RUN", help="run folders (default: every evaluated run)")
    report.add_argument("--outputs", metavar="FOLDER", help="default: the one the runs lie in, or outputs")
    embed = add("embed", "write the embedding of every image of a source, and what is known of it, into one file")
    embed.add_argument("run", metavar="RUN", help="a run folder, or a backbone such as embedded or vitb16, frozen")
    source = "a folder (PERSON/IMAGE, PERSON/ASPECT/IMAGE, or one CSV) or DATASET[:ASPECT]=FOLDER"
    embed.add_argument("source", metavar="SOURCE", help=source)
    ending = "its ending says the format: .npz, .csv, .parquet or .safetensors"
    embed.add_argument("--out", required=True, metavar="FILE", help=ending)
    score = add("score", "test features that any other program made, as every run is tested: notebooks 04 and 05")
    files = "what `embed` writes, or a CSV with a column path and columns that end in numbers"
    score.add_argument("features", metavar="FEATURES", help=files)
    score.add_argument("--as", dest="name", required=True, metavar="NAME", help="what tables call the features")
    data_keys = "the data set and the protocol, key by key: dataset, data_root, aspect, protocol, draws, ..."
    score.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=data_keys)
    export = add("export", "write a run's encoder as open_clip loads it by itself, with its model card")
    export.add_argument("run", metavar="RUN", help="the folder of an evaluated run")
    export.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    onnx = 'add the image encoder as ONNX, checked with onnxruntime; needs pip install -e ".[onnx]"'
    export.add_argument("--onnx", action="store_true", help=onnx)
    data = add("data", "check a data set, or decode its images ahead of training")
    jobs = data.add_subparsers(dest="job", required=True)
    check = add("check", "count, open and compare a data set's images; end with OK, or with what is wrong", jobs)
    check.add_argument("--aspect", help="apply the protocol to this aspect alone (default: every one there is)")
    check.add_argument("--protocol", help="default: the one the data set's papers use")
    check.add_argument("--burst-gap", type=_count, default=BURST_GAP, metavar="N", help="see params/base.yaml")
    prepare = add("prepare", "decode every image once into the store that runs read; it may be stopped", jobs)
    sizes = "a square's side or HEIGHTxWIDTH such as 256x128 (default 224 32: OpenAI's CLIP, and the pixel floor)"
    prepare.add_argument("--size", dest="sizes", nargs="+", default=["224", "32"], metavar="PIXELS", help=sizes)
    resize = "as in the params of the runs to come: the whole picture (the default), or its centre"
    prepare.add_argument("--resize", choices=("squash", "crop"), default="squash", help=resize)
    for verb in (shown, cleaned, across, compare, prepare):
        verb.add_argument("--outputs", default="outputs", metavar="FOLDER", help="outputs_root of the runs")
    for job in (check, prepare):
        job.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(ASPECTS))
        job.add_argument("--root", metavar="FOLDER", help="from the project's folder, as data_root: default data/NAME")
        job.add_argument("--allow-missing", action="store_true", help="a partial download is no fault")
    return top


def _write_plainly(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate({ord("±"): "+-", ord("–"): "-", ord("…"): "..."})
    return text.encode("ascii", "backslashreplace").decode(), error.end


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 well, 1 a run failed or a fault of ours, 2 a user's mistake."""
    codecs.register_error("plainly", _write_plainly)
    for stream in (sys.stdout, sys.stderr):  # a terminal that speaks ASCII, say, cannot write a plus-minus sign
        if hasattr(stream, "reconfigure"):  # else it is no file
            stream.reconfigure(errors="plainly")
    given = argparse.Namespace()
    try:
        parser().parse_args(arguments, given)
        if getattr(given, "debug", False):
            os.environ["CLIPREID_DEBUG"] = "1"  # for child processes, too
        return _do(given)
    except UserError as error:
        print(f"clipreid: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends
        return 141
    except KeyboardInterrupt:
        goes_on = "" if getattr(given, "job", "") == "check" else "; the same command goes on where this one was"
        print(f"\nclipreid: stopped{goes_on}", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("CLIPREID_DEBUG"):
            traceback.print_exc()
        else:
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(f"clipreid: a fault of this program ({told}); --debug shows the traceback", file=sys.stderr)
        return 1


def _do(given: argparse.Namespace) -> int:
    match given.verb:  # what is slow to import is imported where it is needed
        case "run":
            return _run(given)
        case "plan":
            plan.print_plan(_runs(given))
        case "status":
            status.print_status(project_path(given.outputs))
        case "identify":
            from clipreid_lib.runs import identify

            identify.ask(**{key: value for key, value in vars(given).items() if key not in ("verb", "debug")})
        case "forget":
            from clipreid_lib.runs import identify

            identify.forget(given.person, given.files)
        case "clean":
            clean.clean(project_path(given.outputs), given.yes)
        case "across":
            from clipreid_lib.runs import across

            print(across.report(given.runs, given.on, project_path(given.outputs)))
        case "compare":
            from clipreid_lib.scores import ladder

            print(ladder.report(given.chosen, project_path(given.outputs)))
        case "fuse":
            from clipreid_lib.runs import fuse

            print(*fuse.fuse(given.runs, given.name), sep="\n")
        case "report":
            from clipreid_lib.pages import report

            for line in report.write(given.runs, given.outputs):
                print(line, flush=True)
        case "embed":
            from clipreid_lib.runs import feature_files

            print(feature_files.embed(given.run, given.source, given.out))
        case "score":
            from clipreid_lib.runs import external

            scored, lines = external.prepare(given.features, given.name, given.set)
            print(*lines, sep="\n", flush=True)
            return _run_here(scored)
        case "export":
            from clipreid_lib.runs import export

            print(*export.export(given.run, given.out, given.onnx), sep="\n")
        case "data":
            from clipreid_lib.runs import data_commands

            values = {key: value for key, value in vars(given).items() if key not in ("verb", "job", "debug")}
            return getattr(data_commands, given.job)(**values)
    return 0


def _runs(given: argparse.Namespace) -> list[Params]:
    runs = read.expand(*read.compose(given.files, given.set), many=given.yes)
    told: list[str] = []
    if getattr(given, "choose", None) is None:  # which compares combinations with the same seeds
        runs, told = read.drop_repeats(runs)
    preflight.check(runs)
    print(*told, sep="\n", end="\n" * bool(told))
    return runs


def _run(given: argparse.Namespace) -> int:
    runs = _runs(given)
    asked = {name: getattr(given, name) for name in SLURM if getattr(given, name) is not None}
    if given.backend == "slurm":
        if given.choose is not None:
            raise UserError("--choose: waits for a whole grid, which jobs of a cluster do not; use the local backend")
        sent = slurm.submit(runs, slurm.Settings(**asked), frozenset(given.force))
        print(f"{counted(len(sent), 'job')} sent; `clipreid status` follows them, `clipreid report` sums up")
        return 0
    if asked:
        raise UserError(f"--{next(iter(asked)).replace('_', '-')}: goes with --backend slurm")
    return _run_here(runs, given.jobs, frozenset(given.force), given.choose)


def _run_here(
    runs: list[Params], jobs: int = 1, force: frozenset[str] = frozenset(), choose_by: str | None = None
) -> int:
    preflight.check_here(runs, force)
    from clipreid_lib.runs import choose  # here, so that a typing mistake is told at once
    from clipreid_lib.runs.local import Local, print_summary

    for ending in ("SIGTERM", "SIGHUP"):  # a scheduler's or a closed terminal's: end as Ctrl-C does
        number = getattr(signal, ending, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it ignored
            signal.signal(number, signal.default_int_handler)

    began = time.perf_counter()
    batch = Local(runs, jobs, force)
    failed: dict[str, str] = {}
    if choose_by is not None:
        batch, failed = choose.train_and_choose(batch, choose_by)
    failed = failed or batch.do()
    print_summary(batch, failed, time.perf_counter() - began)
    if failed:
        print(f"clipreid: {len(failed)} of {len(runs)} runs failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
