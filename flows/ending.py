"""How a run ends: told to a server that comes back; after a signal cancelled, if that was asked for, or crashed."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect import get_client, get_run_logger
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed, State

from flows.guard import tell_guard

SIGNALS = (TerminationSignal, KeyboardInterrupt)
SERVER_SECONDS = 600
RESUMES = "the next run goes on from the last checkpoint"


def stopped(signal: BaseException, kept: str = RESUMES) -> State[None]:
    """Return the final state of what one of `SIGNALS` has ended, and tell the run's guard of it.

    Args:
        signal: that has ended it.
        kept: what becomes of the work done so far, for its message.
    """
    by = "Ctrl-C" if isinstance(signal, KeyboardInterrupt) else "SIGTERM, as a worker's end sends it"
    ended: State[None] = Crashed(message=f"ended by {by}; {kept}")
    with suppress(HTTPError), get_client(sync_client=True) as client:  # of a server that is away the guard asks later
        state = client.read_flow_run(UUID(flow_run.id)).state
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            ended = Cancelled(message=f"cancelled; {kept}")
    return tell_guard(ended)


def report(state: State[Any]) -> State[Any]:
    """Return the state in which the run ends, once its guard has been told of it and the server is there to take it."""
    tell_guard(state)
    wait_for_server()
    return state


def wait_for_server() -> None:
    """Wait some minutes for a server that is away: without it Prefect would lose the state that the run ends with."""
    deadline = time.monotonic() + SERVER_SECONDS
    with get_client(sync_client=True) as client:
        while client.api_healthcheck() is not None and time.monotonic() < deadline:
            get_run_logger().warning("the run has ended, and waits for the Prefect server to tell it so")
            time.sleep(10)
