"""`python -m flows.guard RUN PROCESS PIPE`: see to it that a run's state in Prefect is that of its process here.

Prefect's worker reports the end of a run and carries out its cancellation, except where the worker is killed, or the
server is away at that moment: then a run without a process is Running for ever, and a cancelled one goes on. A server
that was away takes living runs for dead. This process, in a session of its own, outlives all of them.

A pipe leads here from the run's process: through it comes the final state that the process wants, if it has one, and
then the pipe's end, when the process ends in whatever way.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from enum import Enum
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Running, State

POLL_SECONDS = 5
STOP_PATIENCE_SECONDS = 45  # for the worker: it signals, and kills after 30 s
REVIVE_PATIENCE_SECONDS = 15  # for a process that is about to end by itself: its run may have crashed indeed
REPORT_PATIENCE_SECONDS = 10  # for the worker and the run itself, who know more where they can report the same
GIVE_UP_SECONDS = 12 * 3600  # after the end of the process, where the server stays away
TASKS_PATIENCE_SECONDS = 120  # the same, where the run itself has its state
MAX_PAUSE_SECONDS = 60  # between two attempts to reach it
LOST = "the process of this run has ended without a report; a training goes on from its last checkpoint"
ALIVE = "the process of this run is alive, and the run goes on; to stop it, cancel it"

_pipes: list[int] = []  # to the guard of this process, if it has one


class Need(Enum):
    """What the state of a run whose process is alive calls for."""

    NOTHING = "nothing"
    STOP = "the process must end: the run is cancelled or deleted"
    REVIVE = "the run must be Running again: others took its process for dead"


def start_guard(run: UUID) -> None:
    """Guard the run, whose process is this one, until this process has ended."""
    outlet, inlet = os.pipe()
    _pipes.append(inlet)  # never closed, and inherited by no program: its end is this process's end
    subprocess.Popen(
        [sys.executable, "-m", "flows.guard", str(run), str(os.getpid()), str(outlet)],
        env=os.environ | {"PREFECT_CLIENT_MAX_RETRIES": "0"},  # they take a minute; the guard asks again by itself
        pass_fds=[outlet],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # a worker waits until all have closed its pipes
    )
    os.close(outlet)


def tell_guard(state: State[Any]) -> State[Any]:
    """Tell the guard the final state of this process's run, in case the server does not hear it; return the state.

    The first one counts: a signal that comes later finds the work done.
    """
    line = json.dumps([state.type, state.name, state.message])
    for pipe in _pipes:
        with suppress(BrokenPipeError):  # somebody has killed the guard
            os.write(pipe, f"{line}\n".encode())
    return state


def guard(run: UUID, process: int, outlet: int) -> None:
    """Keep the run's state and its process in line, until the run has its final state.

    Args:
        run: its id.
        process: the number of its process.
        outlet: the pipe from its process.
    """
    with get_client(sync_client=True) as client:
        _watch(client, run, process, outlet)
        told, ended, is_final = b"", float("inf"), False
        while (waited := time.monotonic() - ended) < (TASKS_PATIENCE_SECONDS if is_final else GIVE_UP_SECONDS):
            if waited < 0 and _is_readable(outlet, 0):
                told += (chunk := os.read(outlet, 1 << 16))
                ended = ended if chunk else time.monotonic()
            by_force = waited > REPORT_PATIENCE_SECONDS
            # also of a process that is alive: the server may go when it has taken the state
            is_final = is_final or _is_run_final(client, run, _wanted(told), by_force)
            if is_final and _are_tasks_final(client, run, by_force):
                return
            time.sleep(min(0.2 + max(waited, 0) / 20, MAX_PAUSE_SECONDS))


def _watch(client: SyncPrefectClient, run: UUID, process: int, outlet: int) -> None:
    """Stop the process or revive the run where its state asks for it, until the process tells its state or ends."""
    need, since, signalled = Need.NOTHING, 0.0, False
    while not _is_readable(outlet, POLL_SECONDS):
        before, need = need, _need(client, run, need)
        if need is not before:
            since = time.monotonic()
        waited = time.monotonic() - since
        if need is Need.REVIVE and waited > REVIVE_PATIENCE_SECONDS:
            _revive(client, run)
        # a second signal would cut short what the first one has begun
        elif need is Need.STOP and waited > STOP_PATIENCE_SECONDS and not signalled and not _is_readable(outlet, 0):
            os.kill(process, signal.SIGTERM)
            signalled = True


def _is_readable(outlet: int, seconds: float) -> bool:
    return bool(select.select([outlet], [], [], seconds)[0])


def _need(client: SyncPrefectClient, run: UUID, before: Need) -> Need:
    """Return what the run's state calls for; as before while the server does not answer."""
    try:
        state = client.read_flow_run(run).state
    except ObjectNotFound:
        return Need.STOP
    except HTTPError:
        return before
    assert state is not None, "a process had it"
    if state.is_cancelling() or state.is_cancelled():
        return Need.STOP
    return Need.REVIVE if state.is_crashed() else Need.NOTHING


def _revive(client: SyncPrefectClient, run: UUID) -> None:
    """Set the run Running again; a server that is away is asked again at the next look."""
    with suppress(HTTPError, ObjectNotFound):
        client.set_flow_run_state(run, Running(message=ALIVE), force=True)


def _wanted(told: bytes) -> State[Any]:
    """Return the final state that a process has told, or else that of one that was killed."""
    lines = told.split(b"\n")[:-1]  # what has no end was cut off
    states = (State(type=kind, name=name, message=message) for kind, name, message in map(json.loads, lines))
    return next(states, Crashed(message=LOST))


def _is_run_final(client: SyncPrefectClient, run: UUID, wanted: State[Any], by_force: bool) -> bool:
    """Return whether the run has its final state, is retried or deleted; by force, give it one. False without server.

    Args:
        client: of the server.
        run: its id.
        wanted: its final state by its process.
        by_force: whether to set the state.
    """
    try:
        state = client.read_flow_run(run).state
        assert state is not None, "a process had it"
        if state.is_scheduled() or state.is_pending():  # a retry, which has a process and a guard of its own
            return True
        if state.is_cancelling() and wanted.is_crashed():
            wanted = Cancelled()
        # others may have taken for a crash what the process knows better
        if state.is_final() and (wanted.is_crashed() or not state.is_crashed()):
            return True
        if by_force:
            client.set_flow_run_state(run, wanted, force=True)
    except ObjectNotFound:
        return True
    except HTTPError:
        return False
    return by_force


def _are_tasks_final(client: SyncPrefectClient, run: UUID, by_force: bool) -> bool:
    """Return whether each task of a run at its end has a final state; by force, give it the run's."""
    try:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        open_tasks = [task for task in tasks if task.state is None or not task.state.is_final()]
        if open_tasks and by_force:
            state = client.read_flow_run(run).state
            assert state is not None
            if not state.is_final():  # they are a retry's
                return True
            for task in open_tasks:
                ended: State[None] = State(type=state.type, name=state.name, message=state.message)
                client.set_task_run_state(task.id, ended, force=True)
    except ObjectNotFound:  # somebody has deleted the run
        return True
    except HTTPError:
        return False
    return by_force or not open_tasks


if __name__ == "__main__":
    guard(UUID(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
