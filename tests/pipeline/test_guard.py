"""The guard beside a run, on a real server: the run's state is that of its process, whoever says otherwise or nothing.

The guard's clock is a fast one here; what it waits for is real.
"""

import contextvars
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from threading import Thread
from types import SimpleNamespace

import pytest
from httpx import ConnectError, HTTPTransport
from prefect import flow, get_client, task
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import AwaitingRetry, Cancelling, Completed, Crashed, Failed, Running

from flows import guard
from tests.pipeline.service import Server

pytestmark = pytest.mark.slow

SPEED = 80
CLOCK = SimpleNamespace(monotonic=lambda: time.monotonic() * SPEED, sleep=lambda seconds: time.sleep(seconds / SPEED))


@flow
def trial():
    pass


@task
def part():
    pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server
    server.stop(server.server)


@pytest.fixture
def client(server, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(guard, "time", CLOCK)
    monkeypatch.setattr(guard, "POLL_SECONDS", 0.2)
    with get_client(sync_client=True) as client:
        yield client


class Guarded:
    """A run with a process that waits for its end, and a guard of both."""

    def __init__(self, client) -> None:
        run = client.create_flow_run(trial, state=Running()).id
        self.run, self.task = str(run), client.create_task_run(part, run, "0", state=Running()).id
        outlet, self.inlet = os.pipe()
        self.process = subprocess.Popen(["sleep", "600"], pass_fds=[self.inlet])
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            context = contextvars.copy_context()  # with the server's address, too
        arguments = (run, self.process.pid, outlet)
        self.guard = Thread(target=context.run, args=(guard.guard, *arguments), daemon=True)
        self.guard.start()

    def tell(self, state) -> None:
        guard._pipes[:] = [self.inlet]
        guard.tell_guard(state)
        guard._pipes.clear()

    def end(self) -> None:
        """As `kill -9`."""
        os.close(self.inlet)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def guarded(client):
    guarded = Guarded(client)
    yield guarded
    guarded.process.kill()
    guarded.process.wait()
    guarded.guard.join(30)
    assert not guarded.guard.is_alive()


@contextmanager
def away():
    """The server does not answer, as far as Prefect's client sees; starting it again takes long."""

    def refuse(*_):
        raise ConnectError("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPTransport, "handle_request", refuse)
        yield


def state_of(server, run) -> tuple[str, str]:
    state = server.get(f"flow_runs/{run}")["state"]
    return state["type"], state["message"]


def test_a_living_run_that_others_call_crashed_is_running_again_and_not_stopped(server, client, guarded):
    client.set_flow_run_state(guarded.run, Crashed(message="no heartbeat"))
    server.wait_until(lambda: state_of(server, guarded.run) == ("RUNNING", guard.ALIVE), 20)
    time.sleep(2 * guard.STOP_PATIENCE_SECONDS / SPEED)
    assert guarded.process.poll() is None
    client.set_flow_run_state(guarded.run, Cancelling())
    assert guarded.process.wait(20) == -signal.SIGTERM
    guarded.end()
    server.wait_until(lambda: state_of(server, guarded.run)[0] == "CANCELLED", 20)
    server.wait_until(lambda: server.tasks(guarded.run).popitem()[1] == "CANCELLED", 20)


def test_a_run_whose_process_is_about_to_end_stays_crashed(server, client, guarded):
    guarded.tell(Crashed(message="ended by SIGTERM"))
    client.set_flow_run_state(guarded.run, Crashed(message="ended by SIGTERM"))
    time.sleep(3 * guard.REVIVE_PATIENCE_SECONDS / SPEED)
    assert state_of(server, guarded.run) == ("CRASHED", "ended by SIGTERM")
    assert guarded.guard.is_alive(), "a task is still running"
    client.set_task_run_state(guarded.task, Crashed(), force=True)
    guarded.guard.join(20)
    assert not guarded.guard.is_alive(), "a server that goes away now has all states"


def test_what_the_process_has_told_is_truer_than_a_crash(server, client, guarded):
    guarded.tell(Completed(message="an experiment"))
    guarded.tell(Crashed(message="ended by SIGTERM"))
    client.set_flow_run_state(guarded.run, Crashed(message="exit code 1"))
    guarded.end()
    server.wait_until(lambda: state_of(server, guarded.run) == ("COMPLETED", "an experiment"), 20)
    server.wait_until(lambda: server.tasks(guarded.run).popitem()[1] == "COMPLETED", 20)


def test_runs_that_end_while_the_server_is_away_for_long_have_their_states_when_it_is_back(server, client, guarded):
    cut_off = Guarded(client)
    cancelled = Guarded(client)
    client.set_flow_run_state(cancelled.run, Cancelling())
    with away():
        guarded.tell(Failed(message="stage train failed"))
        cancelled.tell(Crashed(message="ended by SIGTERM"))
        os.write(cut_off.inlet, b'["COMPLE')
        for one in (guarded, cut_off, cancelled):
            one.end()
        time.sleep(240 / SPEED)
    server.wait_until(lambda: state_of(server, guarded.run) == ("FAILED", "stage train failed"), 20)
    server.wait_until(lambda: state_of(server, cut_off.run) == ("CRASHED", guard.LOST), 20)
    server.wait_until(lambda: state_of(server, cancelled.run)[0] == "CANCELLED", 20)


def test_a_retry_that_begins_at_once_is_left_alone(server, client, guarded):
    client.set_flow_run_state(guarded.run, Failed(message="stage train failed"), force=True)
    guarded.tell(Failed(message="stage train failed"))
    guarded.end()
    client.set_flow_run_state(guarded.run, AwaitingRetry(), force=True)
    time.sleep(2 * guard.REPORT_PATIENCE_SECONDS / SPEED)
    client.set_flow_run_state(guarded.run, Running(), force=True)
    guarded.guard.join(20)
    assert not guarded.guard.is_alive() and state_of(server, guarded.run)[0] == "RUNNING"
    assert server.tasks(guarded.run).popitem()[1] == "RUNNING"


def test_a_server_that_ends_after_a_run_is_not_waited_for_long(client, guarded):
    """As at the end of `make prefect`."""
    guarded.tell(Completed())
    client.set_flow_run_state(guarded.run, Completed())
    time.sleep(1)
    with away():
        guarded.end()
        guarded.guard.join(20)
        assert not guarded.guard.is_alive()


def test_a_guard_that_was_killed_hinders_nobody():
    outlet, inlet = os.pipe()
    os.close(outlet)
    guard._pipes[:] = [inlet]
    guard.tell_guard(Completed())
    guard._pipes.clear()
    os.close(inlet)
