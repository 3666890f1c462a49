"""The flow `slurm` follows a job of Slurm's to its end; Slurm's commands are stand-ins, whose answers are files."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from uuid import uuid4

import pytest
from prefect.exceptions import TerminationSignal

from flows import slurm as flow
from flows.slurm_job import SlurmJob
from flows.stage import PLAIN
from m2det.errors import InputError

SBATCH = """#!/bin/bash
printf '%s\\n' "$@" > arguments
env > environment
[ -e refusal ] && { cat refusal >&2; exit 1; }
[ -e slow ] && sleep 1
echo "17;cluster"
"""
# each question gets the next line of the file answers, the last one again and again; "!" is an error of squeue
SQUEUE = """#!/bin/bash
answer=$(head -n 1 answers)
[ "$(wc -l < answers)" -gt 1 ] && sed -i 1d answers
case $answer in "!"*) echo "${answer#!}" >&2; exit 1;; esac
echo "$answer"
"""
SCANCEL = """#!/bin/bash
echo "$@" > cancelled
echo "CANCELLED None" > answers
echo "saved step 12" >> logs/slurm-17.log
"""


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a job whose Slurm asks nobody; answers are given by `answer`."""
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("flows.slurm_job.POLL_SECONDS", 0.05)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(*options: str, arguments: tuple[str, ...] = ()) -> SlurmJob:
    return SlurmJob.submit(Path("deploy/slurm.sbatch"), options, arguments, Path("logs"))


def answer(*answers: str) -> None:
    Path("answers").write_text("".join(f"{line}\n" for line in answers))


def test_a_job_is_submitted_with_options_before_and_arguments_behind_the_script(slurm):
    job = submit("--nodes=4", arguments=("-S", "epochs=2"))
    assert job.number == 17 and job.log == slurm / "logs/slurm-17.log"
    assert (slurm / "arguments").read_text().splitlines() == [
        "--parsable",
        f"--output={slurm}/logs/slurm-%j.log",
        "--nodes=4",
        "deploy/slurm.sbatch",
        "-S",
        "epochs=2",
    ]
    assert f"{PLAIN}=1" in (slurm / "environment").read_text(), "the job's stages are no runs of Prefect"


def test_a_job_that_slurm_refuses_is_its_sentence(slurm):
    (slurm / "refusal").write_text("sbatch: error: Batch job submission failed: Invalid partition name specified\n")
    with pytest.raises(InputError, match=r"sbatch refuses the job: .*Invalid partition name specified$"):
        submit()


def test_a_machine_without_slurm_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch is not on this machine's PATH"):
        submit()


def test_each_line_of_the_log_comes_once_and_each_state_once():
    lines: list[str] = []
    job = submit()
    answer("PENDING Resources", "PENDING Resources", "RUNNING None", "RUNNING None", "COMPLETED None")

    def write(line: str) -> None:
        lines.append(line)
        if line.endswith("RUNNING"):
            job.log.write_bytes("step 1 \u00e9\nstep".encode())  # caught in the middle of a line
        if line == "step 1 \u00e9":
            with job.log.open("a") as log:
                log.write(" 2\n50%\r100%\nno end of line")

    assert job.watch(write)
    states = [line for line in lines if line.startswith("Slurm's job 17: ")]
    assert states == [f"Slurm's job 17: {state}" for state in ("PENDING Resources", "RUNNING", "COMPLETED")]
    logged = [line for line in lines if line not in states]
    assert logged == ["step 1 \u00e9", "step 2", "50%", "100%", "no end of line"] and job.state == "COMPLETED"


def test_a_controller_that_is_away_ends_no_watch():
    lines: list[str] = []
    job = submit()
    answer("RUNNING None", "!slurm_load_jobs error: Unable to contact slurm controller", "COMPLETED None")
    assert job.watch(lines.append)
    assert "no answer: slurm_load_jobs error: Unable to contact slurm controller" in lines[1]
    answer("!slurm_load_jobs error: Unable to contact slurm controller")
    assert job.watch(lines.append, seconds=0) and job.state == "COMPLETED", "what it said last holds"


@pytest.mark.parametrize("gone", ["!slurm_load_jobs error: Invalid job id specified", ""])
def test_a_job_that_slurm_has_forgotten_is_a_sentence_with_its_log(gone):
    answer(gone)
    with pytest.raises(InputError, match=r"does not know its job 17 any more; its log is .*slurm-17\.log"):
        submit().watch(print)


def test_a_watch_has_an_end():
    answer("COMPLETING None")
    assert not submit().watch(lambda _: None, seconds=0.1)


class Log:
    """What the task's log is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, line: str) -> None:
        self.lines.append(text % line)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(flow, "task_log", lambda: made)
    monkeypatch.setattr(flow, "LOGS", Path("logs"))
    return made


@pytest.mark.usefixtures("log")
def test_a_job_that_ends_well_is_a_completed_task():
    answer("COMPLETED None")
    state = flow.run_job.fn([], [])
    assert state.is_completed() and "job 17 has completed; its log is" in state.message


def test_a_job_that_fails_is_a_failed_task_with_the_reason_of_its_log(log, slurm):
    (slurm / "logs").mkdir()
    (slurm / "logs/slurm-17.log").write_text(
        "error: the packed cache of node 1 is another one\nERROR: failed to reproduce 'train': failed to run\n"
        "srun: error: n1: task 0: Exited with exit code 255\n"
    )
    answer("FAILED NonZeroExitCode")
    state = flow.run_job.fn([], [])
    assert state.is_failed() and state.message.startswith(
        "Slurm's job 17: FAILED; stage train failed: the packed cache of node 1 is another one; its log is"
    )
    assert log.lines[0] == "Slurm's job 17: FAILED NonZeroExitCode"


@pytest.mark.usefixtures("log")
def test_a_job_that_slurm_refuses_is_a_failed_task(slurm):
    (slurm / "refusal").write_text("sbatch: error: no\n")
    state = flow.run_job.fn([], [])
    assert state.is_failed() and state.message == "sbatch refuses the job: sbatch: error: no"


@pytest.fixture(params=[KeyboardInterrupt, TerminationSignal])
def stopped_run(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """A run that is stopped after 0.3 s, as by Ctrl-C or a cancelled run's worker, which sends SIGTERM."""
    monkeypatch.setattr("flows.ending.get_client", NoServer)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid4()))

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001
        raise request.param(signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, interrupt)
    timer = Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGALRM))
    timer.start()
    yield
    timer.cancel()
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("stopped_run")
def test_a_stopped_run_cancels_its_job_and_relays_its_end(log, slurm):
    answer("RUNNING None")
    (slurm / "logs").mkdir()
    state = flow.run_job.fn([], [])
    assert (slurm / "cancelled").read_text() == "17\n"
    assert log.lines[-1] == "saved step 12"
    assert state.is_crashed() and "Slurm's job 17 has ended; the next job goes on" in state.message


@pytest.mark.usefixtures("log", "stopped_run")
def test_a_run_that_is_stopped_while_sbatch_submits_cancels_what_it_submitted(slurm):
    (slurm / "slow").touch()
    state = flow.run_job.fn([], [])
    assert (slurm / "cancelled").read_text() == "17\n"
    assert state.is_crashed() and "the job that was being submitted is cancelled" in state.message


class NoServer:
    """A server that is away."""

    def __init__(self, sync_client: bool) -> None:
        pass

    def __enter__(self) -> "NoServer":
        from httpx import ConnectError

        raise ConnectError("away")

    def __exit__(self, *_: object) -> None:
        pass
