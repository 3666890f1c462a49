"""`make prefect`: what it refuses at once, and on real servers that all starts by one command and ends with it."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.api import refuse_another_server
from flows.rest import Server
from flows.service import WRITTEN, _remove_toml, port_number, refuse_used_port
from m2det.errors import InputError
from m2det_prefect import check_server
from tests.conftest import ROOT
from tests.pipeline.toy import Toy
from tests.processes import gone

URL = "http://127.0.0.1:4200/api"
READY, ENDED = 120, 90  # seconds on a busy machine
CHECK = """
import sys
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from m2det_prefect import check_server
check_server("m2det")
with get_client(sync_client=True) as client:
    client.create_work_pool(WorkPoolCreate(name="idle", type="process"))
check_server("idle")
check_server("gone")
"""


@pytest.fixture
def no_settings(tmp_path, monkeypatch) -> None:
    """A folder and a home without any setting of Prefect's, and no proxy."""
    for name in [name for name in os.environ if name.upper().startswith("PREFECT_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_settings")
def test_a_server_that_is_set_already_is_refused_with_its_place(monkeypatch):
    refuse_another_server(URL)
    Path("prefect.toml").write_text('[api]\nurl = "http://others:4200/api"\n')
    with pytest.raises(InputError, match=r"prefect\.toml sets the Prefect server http://others:4200/api"):
        refuse_another_server(URL)
    Path("prefect.toml").unlink()
    monkeypatch.setenv("PREFECT_API_URL", URL)
    refuse_another_server(URL)
    monkeypatch.setenv("PREFECT_API_URL", "http://localhost:4200/api/")
    refuse_another_server(URL)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    with pytest.raises(InputError, match=r"export no_proxy=127\.0\.0\.1"):
        refuse_another_server(URL)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    refuse_another_server(URL)


def test_a_prefect_toml_that_somebody_has_edited_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text, kept in ((WRITTEN.format(port=4201), False), (WRITTEN.format(port=4201) + "[server]\n", True)):
        Path("prefect.toml").write_text(text)
        _remove_toml()
        assert Path("prefect.toml").exists() == kept


def test_a_port_in_use_and_what_is_no_port_are_refused():
    with socket.socket() as program:
        program.bind(("127.0.0.1", 0))
        program.listen()
        with pytest.raises(InputError, match="make prefect PORT=4201"):
            refuse_used_port(program.getsockname()[1])
    assert port_number("4300") == 4300
    for text in ("80", "70000", "http", ""):
        with pytest.raises(InputError, match="a port is a number"):
            port_number(text)


@pytest.mark.parametrize(
    ("url", "said"), [(None, "no Prefect server is set"), ("http://127.0.0.1:1/api", "not answer")]
)
def test_a_run_without_a_server_is_refused_in_one_sentence(url, said):
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(SystemExit, match=said) as ended:
        check_server("m2det")
    assert "`make prefect`" in str(ended.value)


def test_what_a_server_with_a_locked_database_refuses_is_asked_again(monkeypatch):
    """`make prefect` ended with a traceback on a busy machine."""
    answers = [503, 503, 204, 500]

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setattr("flows.rest.PAUSE_SECONDS", 0.01)
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        server = Server(f"http://127.0.0.1:{http.server_port}")
        server.pause_pool("m2det", False)
        assert answers == [500]
        with pytest.raises(HTTPError, match="500"):
            server.pause_pool("m2det", False)
        http.shutdown()


def test_a_folder_of_the_server_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / ".prefect").touch()
    done = subprocess.run(
        [sys.executable, "-m", "flows.service", "4399"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and ".prefect" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_of_another_folder_is_not_taken_for_ours():
    """Two that start at once at one port: the second one would end the runs of the first."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = {"/health": True, "/admin/settings": {"home": "/others/.prefect"}}[self.path]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        server = Server(f"http://127.0.0.1:{http.server_port}")
        assert server.is_healthy(Path("/others/.prefect")) and not server.is_healthy(Path("/mine/.prefect"))
        http.shutdown()


@pytest.mark.slow
def test_a_stage_without_its_server_says_how_to_go_on():
    """As after `kill -9` of `make prefect`, which leaves its prefect.toml."""
    code = "from flows.stage import run_stage; run_stage('trial', lambda: print('works'))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    for url, code_of_exit, said in (("http://127.0.0.1:1/api", 1, "export PREFECT_API_URL="), ("", 0, "works")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment | {"PREFECT_API_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code_of_exit and said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


class Service:
    """`make prefect` in a folder, as typed at a terminal where no setting of Prefect's is made."""

    def __init__(self, folder: Path, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.log = folder, folder / "printed.txt"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_"))} | {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.service", str(self.port)],
                cwd=folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def command(self, *command: str) -> str:
        """What a command prints in another terminal, both streams."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def wait_until(self, condition, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)

    def below(self) -> list[int]:
        """The processes that the command and its children have started."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, task.read_text().split())
        return found[1:]


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_one_command_starts_all_and_its_end_ends_all(tmp_path, number):
    home = tmp_path / "home"
    home.mkdir()
    toy = Toy(tmp_path / "toy")
    toy.set(sleep="data")
    left = toy.folder / "prefect.toml"
    left.write_text(WRITTEN.format(port=1))
    service = Service(toy.folder, home)
    try:
        service.wait_until(lambda: "\nready: " in service.log.read_text(), READY)
        again = service.command(sys.executable, "-m", "flows.service", str(service.port))
        assert again == f"error: the process {service.process.pid} works in .prefect already; wait for it, or end it\n"
        checked = service.command(sys.executable, "-c", CHECK).splitlines()
        assert checked[0] == "no worker of the work pool idle is there, so runs wait until one is started", checked
        assert len(checked) == 2 and "has no work pool gone; docs/pipeline.md" in checked[1]
        run = service.command("prefect", "deployment", "run", "m2det/digits").split("UUID: ")[1].split()[0]
        service.wait_until(lambda: any((copy / "child").exists() for copy in toy.copies()), READY)
        pids = service.below()
        assert len(pids) >= 6, "server, worker, the run, DVC, its stage, a child of the stage"
        guards = [pid for pid in pids if b"flows.guard" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.killpg(service.process.pid, number)
        assert service.process.wait(ENDED) == (130 if number == signal.SIGINT else -number)
        waiting = guards if number == signal.SIGKILL else []  # for a server to come back, and for hours
        assert [pid for pid in pids if pid not in waiting and not gone(pid, within=150)] == []
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
    finally:
        service.process.terminate()
        service.process.wait(ENDED)
    assert left.exists() == (number == signal.SIGKILL)
    with sqlite3.connect(toy.folder / ".prefect/prefect.db") as database:
        states = dict(database.execute("SELECT id, state_type FROM flow_run"))
        tasks = dict(database.execute("SELECT name, state_type FROM task_run"))
    assert states.pop(run) == ("CANCELLED" if number == signal.SIGINT else "RUNNING"), service.log.read_text()
    assert not states
    ended = {"preflight": "COMPLETED", "annotations": "COMPLETED", "data": "CANCELLED"}
    assert number == signal.SIGKILL or tasks == ended
    assert not (home / ".prefect/prefect.db").exists()
