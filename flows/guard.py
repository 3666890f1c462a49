"""`python -m flows.guard RUN PIDFD`: see to it that a run ends in Prefect as its process ends here.

Prefect's worker reports the end of a run and carries out its cancellation, except where the worker is killed, or the
server is away at that moment: then a run without a process is Running for ever, and a cancelled one goes on. This
process, in a session of its own, outlives them.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.states import State

POLL_SECONDS = 5
STOP_PATIENCE_SECONDS = 45  # for the worker: it signals, and kills after 30 s
REPORT_PATIENCE_SECONDS = 10  # for the worker and the run itself, who know more where they can report the same
GIVE_UP_SECONDS = 120  # after the end of the process, where the server stays away


def start_guard(run: UUID) -> None:
    """Guard the run, whose process is this one, until this process has ended."""
    handle = os.pidfd_open(os.getpid())  # opened here: a process that has ended has none
    subprocess.Popen(
        [sys.executable, "-m", "flows.guard", str(run), str(handle)],
        pass_fds=[handle],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # a worker waits until all have closed its pipes
    )
    os.close(handle)


def guard(run: UUID, handle: int) -> None:
    """Stop the process if the run is to be cancelled; give the run a final state when the process has ended.

    Args:
        run: its id.
        handle: pidfd of its process.
    """
    from prefect import get_client

    stop_at = None
    with get_client(sync_client=True) as client:
        while not select.select([handle], [], [], POLL_SECONDS)[0]:
            if stop_at is None and _is_to_end(client, run):
                stop_at = time.monotonic() + STOP_PATIENCE_SECONDS
            elif stop_at is not None and time.monotonic() > stop_at:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                stop_at = float("inf")  # a second signal would cut short what the first one has begun
        ended = time.monotonic()
        while not _is_concluded(client, run, by_force=time.monotonic() > ended + REPORT_PATIENCE_SECONDS):
            if time.monotonic() > ended + GIVE_UP_SECONDS:
                return
            time.sleep(1)


def _is_to_end(client: SyncPrefectClient, run: UUID) -> bool:
    """Return whether somebody has cancelled, ended or deleted the run; False while the server does not answer."""
    from httpx import HTTPError
    from prefect.exceptions import ObjectNotFound

    try:
        state = client.read_flow_run(run).state
    except ObjectNotFound:
        return True
    except HTTPError:
        return False
    return state is not None and (state.is_cancelling() or state.is_final())


def _is_concluded(client: SyncPrefectClient, run: UUID, by_force: bool) -> bool:
    """Return whether a run without a process, and each of its tasks, has a final state; by force, give them one.

    While the server does not answer, the run is not concluded.
    """
    from httpx import HTTPError
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Crashed

    try:
        state = client.read_flow_run(run).state
        assert state is not None, "a process had it"
        if not state.is_final():
            if not by_force:
                return False
            lost = "the process of this run has ended without a report; a training goes on from its last checkpoint"
            state = Cancelled() if state.is_cancelling() else Crashed(message=lost)
            client.set_flow_run_state(run, state, force=True)
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        open_tasks = [task for task in tasks if task.state is None or not task.state.is_final()]
        if open_tasks and not by_force:
            return False
        for task in open_tasks:
            ended: State[None] = Cancelled() if state.is_cancelled() else Crashed(message=state.message)
            client.set_task_run_state(task.id, ended, force=True)
    except ObjectNotFound:  # somebody has deleted the run
        return True
    except HTTPError:
        return False
    return True


if __name__ == "__main__":
    guard(UUID(sys.argv[1]), int(sys.argv[2]))
