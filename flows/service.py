"""`make prefect`: a Prefect server, its deployments and a worker in one terminal, all of which end together.

Whatever `prefect` is typed in this folder meanwhile finds the server by a prefect.toml. The server's data base and log
lie in .prefect, so that other projects of the user have their own, and so does another clone.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from flows.api import TOML, refuse_another_server
from flows.rest import Server
from m2det.distributed.children import stage_process
from m2det.distributed.lifetime import die_with_parent
from m2det.distributed.shutdown import handled_signals, longer_grace
from m2det.errors import InputError
from m2det.files.locks import locked
from m2det.files.whole import write_whole
from m2det.text import ignore_closed_output

HOST = "127.0.0.1"
POOL = "m2det"
MAX_RUNS = 8  # at the same time
HOME, LOG = Path(".prefect"), Path(".prefect/log.txt")
WRITTEN = """\
# by `make prefect`, which removes this file at its end
[api]
url = "http://127.0.0.1:{port}/api"
"""
RUN_GRACE = 45.0  # seconds: Prefect kills a run 30 s after it was cancelled, and then reports that
PROCESS_GRACE = 15.0  # seconds that the server has to end, and before it the worker


def serve(port: int) -> None:
    """Run server, deployments and worker until a signal to stop comes or one of them ends.

    Raises:
        InputError: another server is set or the port is in use; or one of the processes has ended.
    """
    url, written = f"http://{HOST}:{port}/api", WRITTEN.format(port=port)
    server = Server(url)
    with locked(HOME), ExitStack() as ending:
        _remove_toml()  # its writer was killed, or it would hold the lock
        if TOML.exists():
            raise InputError(f"{TOML} is yours, or edited, and `make prefect` writes a file of that name: move it away")
        refuse_another_server(url)
        refuse_used_port(port)
        print("Prefect starts; half a minute at most, on a machine that is not busy", flush=True)
        LOG.unlink(missing_ok=True)
        environment = _environment(url)
        start = partial(_child, environment=environment)
        processes = {"server": ending.enter_context(start("server", "start", "--host", HOST, "--port", str(port)))}
        _wait(partial(server.is_healthy, HOME.absolute()), processes)
        _crash_runs(server)
        ending.callback(_crash_runs, server)
        if not server.has_pool(POOL):
            _call(environment, "work-pool", "create", POOL, "--type", "process")
        since = datetime.now(UTC)
        server.pause_pool(POOL, False)  # as the last end has left it
        worker = ("worker", "start", "--pool", POOL, "--name", POOL, "--limit", str(MAX_RUNS))
        processes["worker"] = ending.enter_context(start(*worker, terminal=True))
        ending.callback(_cancel_runs, server, processes["worker"])
        _call(environment, "--no-prompt", "deploy", "--all")
        _wait(lambda: server.has_worker(POOL, since), processes)
        ending.callback(_remove_toml)
        write_whole(TOML, written)
        print(f"ready: http://{HOST}:{port} shows deployments and runs. In another terminal, in this folder:")
        print("  prefect deployment run digits\nCtrl-C here cancels what runs and ends all.", flush=True)
        _wait(lambda: False, processes)


def refuse_used_port(port: int) -> None:
    """Raise InputError if a program listens at the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: connections of before do not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port}: {error.strerror}; choose another: make prefect PORT=4201") from error


def port_number(text: str) -> int:
    """Return the port that a user has typed."""
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise InputError(f"PORT={text}: a port is a number from 1024 to 65535, as in make prefect PORT=4201")
    return int(text)


def _remove_toml() -> None:
    """Remove prefect.toml if `make prefect` wrote it and nobody has edited it."""
    if TOML.exists() and re.fullmatch(re.escape(WRITTEN).replace(r"\{port\}", r"\d+"), TOML.read_text()):
        TOML.unlink()


def _environment(url: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH")}
    return kept | {
        "PREFECT_HOME": str(HOME.absolute()),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{HOME.absolute()}/prefect.db",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": url,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # for the automation that finds killed runs
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # instead of 10: on one machine it costs nothing, and runs begin at once
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # the same for cancelling
        "PREFECT_PLUGINS_ENABLED": "false",  # ours is for commands that are typed
        "PWD": str(Path.cwd()),  # prefect.yaml names the folder by it
    }


@contextmanager
def _child(*arguments: str, environment: dict[str, str], terminal: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of Prefect's inside, in a session of its own: Ctrl-C reaches this process alone."""

    def prepare(parent: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in a background job, and a worker ends by it
        die_with_parent(parent)

    with LOG.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if terminal else log,
            stderr=None if terminal else log,
            start_new_session=True,
            preexec_fn=partial(prepare, os.getpid()),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PROCESS_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _call(environment: dict[str, str], *arguments: str) -> None:
    with _child(*arguments, environment=environment) as process:
        if process.wait():
            raise InputError(f"`prefect {' '.join(arguments)}` failed; {LOG} says why")


def _wait(condition: Callable[[], bool], processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Wait for the condition; raise InputError if one of the processes ends before, SystemExit if the terminal does."""
    ends_with_terminal = signal.SIGHUP in handled_signals() and _has_terminal()
    while not condition():
        if ends_with_terminal and not _has_terminal():
            sys.exit(128 + signal.SIGHUP)  # make may have got the signal and tells nobody
        if ended := [name for name, process in processes.items() if process.poll() is not None]:
            raise InputError(f"Prefect's {ended[0]} has ended; {LOG} and the lines above say why")
        time.sleep(0.3)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _cancel_runs(server: Server, worker: subprocess.Popen[bytes]) -> None:
    """Cancel what the worker runs and wait for it: a worker that ends would kill its runs, which stay RUNNING."""
    deadline = time.monotonic() + RUN_GRACE
    try:
        server.pause_pool(POOL, True)  # or the worker would take waiting runs for those that end
        runs = server.active_runs(deployed=True)
        print(f"stopping; runs at work, which have 30 s to save: {len(runs)} (Ctrl-C again: at once)", flush=True)
        server.set_state(runs, "CANCELLING", "`make prefect` was stopped")
        while server.active_runs(deployed=True) and worker.poll() is None and time.monotonic() < deadline:
            time.sleep(0.3)
    except OSError as error:
        print(f"the server has not recorded how runs end: {error}", flush=True)


def _crash_runs(server: Server) -> None:
    """Set the state of runs whose worker has ended."""
    if server.is_healthy(HOME.absolute()):
        server.set_state(server.active_runs(), "CRASHED", "`make prefect` was stopped while this run was at work")


if __name__ == "__main__":
    ignore_closed_output()
    stage_process()
    with longer_grace(RUN_GRACE + 2 * PROCESS_GRACE):
        try:
            serve(port_number(sys.argv[1]))
        except (InputError, OSError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
