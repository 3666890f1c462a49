"""`python -m flows.guard RUN PID`: see to it that a run ends in Prefect as its process ends here.

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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import State

POLL_SECONDS = 5
PATIENCE_SECONDS = 10  # for the worker and the run itself, who know more where they can do the same
GIVE_UP_SECONDS = 120  # after the end of the process, where the server stays away


@contextmanager
def guarded(run: UUID) -> Iterator[None]:
    """Guard the run, whose process is this one, until this process has ended."""
    command = [sys.executable, "-m", "flows.guard", str(run), str(os.getpid())]
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    yield


def guard(run: UUID, process: int) -> None:
    """Stop the process if the run is to be cancelled; give the run a final state when the process has ended."""
    from prefect import get_client

    handle = os.pidfd_open(process)
    cancelled_since = None
    with get_client(sync_client=True) as client:
        while not select.select([handle], [], [], POLL_SECONDS)[0]:
            read = _read(client, run)
            if read is None or read.state is None or not (read.state.is_cancelling() or read.state.is_final()):
                cancelled_since = None
            elif cancelled_since is None:
                cancelled_since = time.monotonic()
            elif time.monotonic() - cancelled_since > PATIENCE_SECONDS:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                cancelled_since = float("inf")  # one signal is enough: the run's grace has begun
        ended = time.monotonic()
        while not _is_concluded(client, run, by_force=time.monotonic() > ended + PATIENCE_SECONDS):
            if time.monotonic() > ended + GIVE_UP_SECONDS:
                return
            time.sleep(1)


def _read(client: SyncPrefectClient, run: UUID) -> FlowRun | None:
    """Return the run, or None while the server does not answer."""
    from httpx import HTTPError
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        return client.read_flow_run(run)
    except (HTTPError, PrefectHTTPStatusError):
        return None


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
            lost = "the process of this run has ended without a report; the next run goes on from the last checkpoint"
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
