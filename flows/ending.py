"""How a run ends that a signal ends: cancelled if somebody asked for that, crashed otherwise."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from httpx import HTTPError
from prefect import get_client
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed, State

SIGNALS = (TerminationSignal, KeyboardInterrupt)
RESUMES = "the next run goes on from the last checkpoint"


def stopped(signal: BaseException) -> State[None]:
    """Return the final state of what one of `SIGNALS` has ended; a server that is away leaves it to flows.guard."""
    with suppress(HTTPError), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run.id)).state
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            return Cancelled(message=f"cancelled; {RESUMES}")
    by = "Ctrl-C" if isinstance(signal, KeyboardInterrupt) else "SIGTERM, as a worker's end sends it"
    return Crashed(message=f"ended by {by}; {RESUMES}")
