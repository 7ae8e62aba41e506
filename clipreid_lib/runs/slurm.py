"""Runs on a SLURM cluster, by submitit: one array of jobs, each of which does one run's chain.

A chain goes on where it was. So a job that is preempted or out of time goes back into the queue. RUN/slurm.json says
which job has the run. This module is quick to import: `clipreid status` asks it what the queue says.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipreid_lib.base.accelerator import list_cards
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import read_json, write_json
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import SURVEY, project_path
from clipreid_lib.runs import plan

TIME_OUTS = 20  # of one job; an epoch that takes longer than the time limit must not come back for ever
WARNING = 90  # seconds before the end of its time at which a job is told, to go back into the queue
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUE", "RESIZING")


@dataclass(frozen=True)
class Settings:
    """What every job of an array asks SLURM for: ``time`` in minutes, ``memory`` in gigabytes."""

    partition: str | None = None  # the cluster's default
    time: int = 240
    gpus: int = 1
    memory: int = 16
    cpus: int = 4
    max_running: int | None = None  # as many as SLURM lets run


@dataclass
class Job:
    """What SLURM runs: notebook 01, then the notebooks of one run. submitit pickles it."""

    params: Params
    cpus: int  # threads of each notebook
    force: frozenset[str]  # as of a chain, likewise the next
    asked: float

    def __call__(self) -> None:
        """Do everything that is not finished; a UserError for a notebook that failed makes SLURM say FAILED."""
        from clipreid_lib.runs.chain import PAUSE, Busy, Chain, Stopped
        from clipreid_lib.runs.run import Run

        signal.signal(signal.SIGTERM, self._end)  # after submitit, whose own handler would let the children go on
        survey, run, stopped = Run.open_data(self.params), Run.open(self.params), threading.Event()
        for each, names in ((survey, (SURVEY,)), (run, run.params.notebooks)):
            chain = Chain(each, names, {"OMP_NUM_THREADS": str(self.cpus)}, self.force, self.asked, stopped)
            self._chain = chain  # not a field: it holds locks and processes, which no pickle can
            while True:
                try:
                    if failure := chain.do():
                        raise UserError(f"{run.folder.name}: {failure}")
                    break
                except Busy:
                    time.sleep(PAUSE)
                except Stopped:
                    raise SystemExit("stopped: SLURM ended the job") from None

    def checkpoint(self) -> object:
        """Stop, and say what is to go back into the queue. submitit calls it on preemption and time-out."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        return DelayedSubmission(dataclasses.replace(self))

    def _end(self, *_: object) -> None:
        # SLURM sends SIGTERM to a job that is cancelled, and to one that is preempted after some grace. The second
        # still counts as running, or as being signalled, and SLURM does not requeue it if it ends in its grace.
        # SLURM sends it to all processes of the job, perhaps twice. squeue starts with it ignored, and survives.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]  # as squeue writes it
        state = _squeue([job]).get(job, "nothing")
        print(f"told to end; the queue says {state} of this job", flush=True)
        if state.startswith(("RUNNING", "SIGNALING")):
            signal.raise_signal(signal.SIGUSR2)  # submitit's: it calls checkpoint and requeues
        else:
            self._stop()

    def _stop(self) -> None:
        if chain := getattr(self, "_chain", None):
            chain.stop()


def submit(runs: list[Params], settings: Settings, force: frozenset[str] = frozenset()) -> list[str]:
    """Send every run that is neither done nor in the queue as one array; return the ids of its jobs, such as ``12_0``.

    Raises:
        UserError: there is no SLURM here, it refuses, or the outputs folder cannot be written.
    """
    from clipreid_lib.runs.run import Run

    for command in ("sbatch", "squeue", "srun"):
        if shutil.which(command) is None:
            hint = "run it on a login node, or use --backend local"
            raise UserError(f"--backend slurm: {command} is not on this machine's PATH; {hint}")
    unknown = any(run.precision == "auto" and run.trains_encoder and run.device != "cpu" for run in runs)
    if settings.gpus and unknown and not list_cards():
        hint = "write bf16 (GPUs since 2020), fp16, tf32 or float32"
        raise UserError(f"precision: auto cannot be told here for the GPUs of the jobs' machines; {hint}")
    opened = [Run.open(params) for params in runs]
    folder = project_path(runs[0].outputs_root) / "slurm"
    folder.mkdir(exist_ok=True)
    left, asked = [], time.time()
    queue = queue_states(run.folder for run in opened)
    others = {} if force else plan.list_other_people(runs)
    for run in opened:
        state = queue.get(run.folder.name, "")
        if state.startswith(ACTIVE):
            print(f"{run.folder.name}: job {_job(run.folder)} has it, {state}")
        elif why := others.get(run.folder.name):
            print(f"{run.folder.name}: {why}")
        elif not force and Run.open_data(run.params).is_done(SURVEY) and run.done and not run.list_changed():
            print(f"{run.folder.name}: nothing to do, it is done")
        else:
            left.append(run)
    ids = _send(folder, [Job(run.params, settings.cpus, force, asked) for run in left], settings) if left else []
    for run, job in zip(left, ids, strict=True):
        write_json(run.folder / "slurm.json", {"job": job})
        print(f"{run.folder.name}: job {job}, its log will be {folder / f'{job}_0_log.out'}")
    return ids


def queue_states(folders: Iterable[Path]) -> dict[str, str]:
    """Ask SLURM's queue what it says of the latest job of each run that was ever sent.

    Returns:
        By the folder's name ``RUNNING``, ``PENDING (Resources)``, ``COMPLETED``, ...; some minutes after the job's end
        an empty text. Nothing at all where there is no queue to ask.
    """
    jobs = {folder.name: job for folder in folders if (job := _job(folder))}
    if not jobs or shutil.which("squeue") is None:
        return {}
    found = _squeue(sorted({job.partition("_")[0] for job in jobs.values()}))
    return {name: found.get(job, "") for name, job in jobs.items()}


def _send(folder: Path, jobs: list[Job], settings: Settings) -> list[str]:
    import submitit

    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=TIME_OUTS)
    executor.update_parameters(
        name="clipreid",
        timeout_min=settings.time,
        mem_gb=settings.memory,
        cpus_per_task=settings.cpus,
        slurm_array_parallelism=settings.max_running or len(jobs),
        slurm_signal_delay_s=WARNING,
        slurm_srun_args=[f"--cpus-per-task={settings.cpus}"],  # srun does not read sbatch's since SLURM 22.05
        slurm_additional_parameters={"requeue": True},  # whatever the cluster's default
        gpus_per_node=settings.gpus or None,  # None asks for none, as below for the cluster's default
        slurm_partition=settings.partition,
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where submitit repeats sbatch's message
            return [job.job_id for job in executor.submit_array(jobs)]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
        raise UserError(f"--backend slurm: sbatch refuses: {'; '.join(filter(None, lines))}") from None


def _squeue(jobs: list[str]) -> dict[str, str]:
    # squeue and not submitit's own watcher, which asks sacct: a cluster without accounting has none.
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        print(f"squeue: {error}", file=sys.stderr)
        return {}
    rows = (line.split("|", 2) for line in said.splitlines() if line.count("|") >= 2)
    return {job: state if reason == "None" else f"{state} ({reason})" for job, state, reason in rows}


def _job(folder: Path) -> str | None:
    return (read_json(folder / "slurm.json") or {}).get("job")
