"""Stop runs in every way that they can be stopped: `python -m tests.pipeline.stop_matrix` (make stress).

Each cell starts a run of one stage of the real project through a real server and worker, disturbs it while it works,
and checks: no process is left, Prefect has the right state in the end, the working copy is as before, and the next run
goes on from the step where this one stopped, wherever a signal could be answered. A cell that fails is told with what
there is to see; the round goes on with the others, and exits with 1. A file remembers the cells that have ended well,
so that a round that is cut goes on with the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from tests.pipeline.conftest import SHORT, make_clone
from tests.pipeline.service import ENDED, Service
from tests.pipeline.stop_bench import MARK, Bench, marked_processes

WORK = ("pack", "train 1", "train 2", "evaluate")  # the number: of processes
REPORT_SECONDS = 4  # for a worker or guard that reports late: the state must stay
GRACE = 80  # seconds: a guard waits 45 for a worker to carry out a cancellation, the stage has 10, DVC's group 20
MOST_FAILURES = 4  # with more, something is wrong with all cells
CTRL_C, CLOSED = "Ctrl-C at `make prefect`", "terminal of `make prefect` closed"


class Cause(NamedTuple):
    """A way to stop a run, and the state that the run has in the end."""

    act: Callable[[Bench, str], None]
    state: str


def _cancel(bench: Bench, run: str) -> None:
    bench.service.command(bench.clone.folder, "prefect", "flow-run", "cancel", run)


def _cancel_in_ui(bench: Bench, run: str) -> None:
    bench.service.get(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


def _to(number: int, *words: str) -> Callable[[Bench, str], None]:
    def act(bench: Bench, run: str) -> None:  # noqa: ARG001
        os.kill(min(bench.pids(*words)), number)

    return act


def _to_worker(number: int) -> Callable[[Bench, str], None]:
    def act(bench: Bench, run: str) -> None:  # noqa: ARG001
        bench.service.worker.send_signal(number)
        bench.service.worker.wait(60)
        bench.service.start_worker()

    return act


def _server_away(number: int, seconds: float) -> Callable[[Bench, str], None]:
    """Stop the server and start it again; the run goes on meanwhile, and can be cancelled after."""

    def act(bench: Bench, run: str) -> None:
        bench.service.server.send_signal(number)
        bench.service.server.wait(60)
        time.sleep(seconds)
        assert bench.pids("flows."), "the run goes on without a server"
        bench.service.start_server()
        _cancel(bench, run)

    return act


CAUSES = {
    "CLI cancel": Cause(_cancel, "CANCELLED"),
    "UI cancel": Cause(_cancel_in_ui, "CANCELLED"),
    "worker SIGTERM": Cause(_to_worker(signal.SIGTERM), "CRASHED"),
    "worker SIGKILL": Cause(_to_worker(signal.SIGKILL), "CRASHED"),
    "flow process SIGTERM": Cause(_to(signal.SIGTERM, "prefect.engine", "prefect flow-run execute"), "CRASHED"),
    "flow process SIGKILL": Cause(_to(signal.SIGKILL, "prefect.engine", "prefect flow-run execute"), "CRASHED"),
    "dvc SIGTERM": Cause(_to(signal.SIGTERM, "-m dvc"), "FAILED"),
    "dvc SIGKILL": Cause(_to(signal.SIGKILL, "-m dvc"), "FAILED"),
    "server SIGTERM, back, cancel": Cause(_server_away(signal.SIGTERM, 5), "CANCELLED"),
    "server SIGKILL, back, cancel": Cause(_server_away(signal.SIGKILL, 5), "CANCELLED"),
    "server away 60 s, cancel": Cause(_server_away(signal.SIGTERM, 60), "CANCELLED"),
}


def cells_of(causes: Iterable[str]) -> list[tuple[str, str]]:
    """Each cause with each kind of work; only a training outlasts the time in which a server is away."""
    return [(c, work) for c in causes for work in WORK if work.startswith("train") or not c.startswith("server")]


def run_cell(bench: Bench, cause: str, work: str, delay: float) -> str:
    """Stop the work by the cause so many seconds after it has begun; return a line on it, or fail."""
    act, expected = CAUSES[cause]
    run = bench.start(work)
    time.sleep(delay)
    step, begun = bench.step(), time.monotonic()
    act(bench, run)
    bench.service.wait_until(lambda: not bench.pids(), GRACE, lambda: f"left: {list(marked_processes(bench.mark))}")
    gone = time.monotonic() - begun
    bench.service.wait_until(lambda: bench.service.state(run) in ENDED, 60)
    told = time.monotonic() - begun
    bench.service.wait_until(lambda: set(bench.service.tasks(run).values()) <= ENDED, 30)
    time.sleep(REPORT_SECONDS)
    state, tasks = bench.service.state(run), bench.service.tasks(run)
    assert state == expected, (state, tasks)
    *before, last = tasks.values()
    assert last == expected and set(before) <= {"COMPLETED"}, f"{cause}, {work}: {tasks}"
    bench.check_untouched()
    training = bench.check_checkpoint(step) if work.startswith("train") else " | "
    return f"| {cause} | {work} | {gone:.0f} s | {state} after {told:.0f} s | {training} |"


class Terminal(Service):
    """`make prefect` at a terminal of its own, in the folder of a project."""

    def __init__(self, folder: Path, mark: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.printed = f"http://127.0.0.1:{port}/api", ""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_")) and k != "PYTHONPATH"}
        self.environment = kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", MARK: mark}
        process, self.screen = pty.fork()
        if process == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where this is a background job, unlike at a terminal
            os.chdir(folder)
            os.execve(sys.executable, [sys.executable, "-m", "flows.service", str(port)], self.environment)
        Thread(target=self._read, daemon=True).start()
        self.wait_until(lambda: "\nready: " in self.printed.replace("\r", ""), 120, lambda: self.printed)

    def _read(self) -> None:
        with suppress(OSError):  # the terminal is closed
            while text := os.read(self.screen, 4096):
                self.printed += text.decode(errors="replace")


def run_at_a_terminal(bench: Bench, cause: str, work: str, delay: float) -> str:
    """Stop the work by Ctrl-C in the terminal of `make prefect`, or by its end; return a line on it, or fail."""
    mark, folder = f"{bench.mark}/terminal", bench.clone.folder
    terminal = Terminal(folder, mark)
    run = bench.start(work, terminal)
    time.sleep(delay)
    step, begun = bench.step(), time.monotonic()
    if cause == CTRL_C:
        os.write(terminal.screen, b"\x03")
    else:
        os.close(terminal.screen)

    def left() -> list[tuple[int, str]]:
        return list(marked_processes(mark, but="resource_tracker"))

    terminal.wait_until(lambda: not left(), GRACE, lambda: f"left: {left()}")
    gone = time.monotonic() - begun
    assert not (folder / "prefect.toml").exists()
    with sqlite3.connect(folder / ".prefect/prefect.db") as database:
        state = dict(database.execute("SELECT id, state_type FROM flow_run"))[run]
        tasks = {*database.execute("SELECT state_type FROM task_run WHERE flow_run_id = ?", (run,))}
    assert state == "CANCELLED" and tasks <= {("COMPLETED",), ("CANCELLED",)}, (state, tasks)
    bench.check_untouched()
    training = bench.check_checkpoint(step) if work.startswith("train") else " | "
    return f"| {cause} | {work} | {gone:.0f} s, server and worker included | {state} | {training} |"


class Progress:
    """The lines of a round's cells that have ended well, in a file."""

    def __init__(self, seed: int) -> None:
        self.file = Path(f"build/stops-{seed}.jsonl")
        kept = [json.loads(text) for text in self.file.read_text().splitlines()] if self.file.exists() else []
        self.lines = {(cause, work): line for cause, work, line in kept}

    def add(self, cause: str, work: str, line: str) -> None:
        self.lines[cause, work] = line
        self.file.parent.mkdir(exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps([cause, work, line]) + "\n")

    def end(self) -> None:
        """Let the next round begin anew, and keep the lines of this one."""
        self.file.replace(self.file.with_suffix(".done"))


def main(seed: int, cells: int | None) -> int:
    """Run what is left of a round; return the exit status."""
    rng = random.Random(seed)
    chosen = cells_of([*CAUSES, CTRL_C, CLOSED])
    rng.shuffle(chosen)
    drawn = [(cause, work, rng.uniform(0, 3)) for cause, work in chosen[:cells]]
    progress = Progress(seed)
    rest = [cell for cell in drawn if cell[:2] not in progress.lines]
    print(f"seed {seed}: {len(rest)} of {len(drawn)} cells are left by {progress.file}")
    print("| cause | stage, processes | no process after | state | from step to checkpoint | step in the log |")
    print("".join(f"{line}\n" for line in progress.lines.values()), end="", flush=True)
    failed: list[str] = []
    while rest and len(failed) <= MOST_FAILURES:
        rest = _run_until_one_fails(rest, progress, failed)
    if failed:
        print(f"failed: {'; '.join(failed)}; the same command tries these again, and {len(rest)} that were not tried")
        return 1
    progress.end()
    return 0


def _run_until_one_fails(
    rest: list[tuple[str, str, float]], progress: Progress, failed: list[str]
) -> list[tuple[str, str, float]]:
    """Run cells on a new bench, and a last one that goes on from the last stop; return those behind one that fails.

    A failure's bench stays on the disk, and ends: what it has left behind would disturb the next cell.
    """
    folder = Path(tempfile.mkdtemp(prefix="m2det-stops-"))
    clone = make_clone(folder / "clone")
    clone.edit(SHORT)
    bench = Bench(folder, clone, WORK)
    try:
        for i, (cause, work, delay) in enumerate([*rest, ("CLI cancel", "train 1", 0.0)]):
            run = run_cell if cause in CAUSES else run_at_a_terminal
            try:
                line = run(bench, cause, work, delay)
            except Exception:
                failed.append(f"{cause}, {work}")
                print(f"FAILED: {cause}, {work}, after {delay:.1f} s, in {folder}", traceback.format_exc(), sep="\n")
                print(bench.evidence(), flush=True)
                return rest[i + 1 :]
            print(line, flush=True)
            if i < len(rest):
                progress.add(cause, work, line)
    finally:
        bench.kill()
    shutil.rmtree(folder)
    return []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, help="how many, drawn by the seed; all by default")
    arguments = parser.parse_args(sys.argv[1:])
    sys.exit(main(arguments.seed, arguments.cells))
