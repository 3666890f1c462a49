"""The flows on a real server, pool and worker: the pipeline itself, shortened, and toy stages that misbehave."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from flows.pipeline import STAGES
from tests.pipeline.conftest import SHORT
from tests.pipeline.toy import Toy
from tests.processes import gone

pytestmark = pytest.mark.slow

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Service:
    """A Prefect server, a pool and a worker of their own; projects deploy to it and start runs, one after another."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.home, self.url = home, f"http://127.0.0.1:{port}/api"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_"))} | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.environment.pop("PYTHONPATH", None)
        self.server = self.start("prefect", "server", "start", "--port", str(port))
        self.wait_until(self.healthy, 90)
        self.command(home, "prefect", "work-pool", "create", "m2det", "--type", "process")
        self.worker = self.start("prefect", "worker", "start", "--pool", "m2det", "--limit", "1")

    def start(self, *command: str, folder: Path | None = None) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder or self.home,
            env=self.environment | {"PREFECT_PLUGINS_ENABLED": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # as from a terminal: a shell's background job ignores it, and Prefect stops by it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def stop(self, process: subprocess.Popen) -> None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def command(self, folder: Path, *command: str) -> str:
        """What `command` prints, typed in `folder`."""
        environment = self.environment | {"PWD": str(folder)}  # prefect.yaml names the folder by it
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, folder: Path, name: str = "m2det/digits", **parameters: object) -> str:
        """The id of a new run of the deployment."""
        words = ["prefect", "deployment", "run", name, *(["--params", json.dumps(parameters)] if parameters else [])]
        return self.command(folder, *words).split("UUID: ")[1].split()[0]

    def ended(self, run: str, seconds: float = 120) -> tuple[str, str]:
        """Type and message of the state in which the run ended."""
        self.wait_until(lambda: self.get(f"flow_runs/{run}")["state"]["type"] in ENDED, seconds)
        state = self.get(f"flow_runs/{run}")["state"]
        return state["type"], state["message"]

    def subflows(self, run: str) -> dict[str, str]:
        """State types of the runs below `run`, by flow name, in order."""
        runs = self.get(
            "flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}, "sort": "START_TIME_ASC"}
        )
        return {self.get(f"flows/{r['flow_id']}")["name"]: r["state"]["type"] for r in runs}

    def log(self, run: str) -> list[str]:
        lines = self.get(
            "logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        )
        return [line["message"] for line in lines]

    def whole_log(self, run: str) -> list[str]:
        """Return the messages of a run that has ended, once the last one has come: Prefect sends them in batches."""
        self.wait_until(lambda: any(line.startswith("Finished in state") for line in self.log(run)), 60)
        return self.log(run)

    def get(self, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=30))

    def healthy(self) -> bool:
        try:
            return self.get("health")
        except OSError:
            return False

    def wait_until(self, condition, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("prefect"))
    yield service
    service.stop(service.worker)
    service.stop(service.server)


@pytest.fixture
def toy(service, tmp_path):
    toy = Toy(tmp_path)
    service.command(tmp_path, "prefect", "--no-prompt", "deploy", "--all")
    return toy


def test_the_pipeline_runs_by_the_bare_name_of_its_deployment(service, clone):
    if not [e for e in entry_points(group="prefect.plugins") if e.value == "m2det_prefect"]:
        pytest.skip("m2det is not installed, so Prefect does not find its plugin: pip install -e .")
    clone.edit(SHORT)
    service.command(clone.folder, "prefect", "--no-prompt", "deploy", "--all")
    run = service.run(clone.folder, "digits")
    assert service.ended(run, 400) == ("COMPLETED", None)
    assert service.subflows(run) == {f"m2det-{stage}": "COMPLETED" for stage in STAGES}
    assert "AP50" in json.loads((clone.folder / "results/metrics.json").read_text())

    run = service.run(clone.folder, "digits", overrides={"model.name": "m2det-huge"})
    state, message = service.ended(run)
    assert state == "FAILED" and message.startswith("params.yaml with this run's overrides: model: no model is called")


def test_a_parameter_of_a_run_is_no_command(service, clone):
    """Given to DVC as it stands, the key names another file: dvc.yaml would keep the command, for every later run."""
    service.command(clone.folder, "prefect", "--no-prompt", "deploy", "--all")
    run = service.run(clone.folder, "digits", overrides={"dvc.yaml:stages.data.cmd": "exec touch X"})
    state, message = service.ended(run)
    clone.run("dvc", "repro", "--single-item", "data", ok=False)
    assert not (clone.folder / "X").exists()
    assert state == "FAILED" and message.startswith("overrides: no key of params.yaml is called 'dvc.yaml:stages.data")
    assert service.command(clone.folder, "git", "status", "--short", "--untracked-files=no") == ""


def test_what_stages_print_and_log_is_in_the_runs_log_once(service, toy):
    run = service.run(toy.folder)
    assert service.ended(run) == ("COMPLETED", None)
    log = service.whole_log(run)
    assert log.count("train prints") == log.count("train logs") == 1
    assert (toy.folder / "benchmark.txt").exists()


def test_a_stage_started_by_hand_has_a_log_of_its_own(service, toy):
    printed = service.command(toy.folder, sys.executable, "-m", "flows.data")
    assert "data logs" in printed
    (run,) = service.get("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert run["state"]["type"] == "COMPLETED" and run["parent_task_run_id"] is None
    assert {"data prints", "data logs"} <= set(service.whole_log(run["id"]))


def test_a_failing_stage_ends_the_run_with_its_name_and_reason(service, toy):
    toy.set(wrong="train")
    assert service.ended(service.run(toy.folder)) == (
        "FAILED",
        "stage train failed: train.json is missing; put it there",
    )
    assert not (toy.folder / "evaluate.txt").exists()
    toy.set(crash="weights")
    state, message = service.ended(service.run(toy.folder))
    assert state == "FAILED" and message.startswith("stage weights failed: ") and "KeyError: 'lost'" in message


def test_overrides_stay_in_the_working_copy_unless_isolated(service, toy):
    run = service.run(toy.folder, overrides={"epochs": 3}, isolated=True)
    assert service.ended(run) == ("COMPLETED", None)
    assert len(service.subflows(run)) == len(STAGES)
    assert service.command(toy.folder, "git", "status", "--short") == ""
    assert not (toy.folder / "train.txt").exists()
    run = service.run(toy.folder, overrides={"epochs": 3})
    assert service.ended(run) == ("COMPLETED", None)
    assert (toy.folder / "train.txt").read_text() == "3\n"


def test_only_some_stages_and_the_last_one_in_any_case(service, toy):
    """A measurement is repeated though nothing has changed; no other stage runs that was not asked for."""
    assert service.ended(service.run(toy.folder)) == ("COMPLETED", None)
    only = {"only": ["pack", "benchmark"]}
    run = service.run(toy.folder, "m2det/digits", overrides={"epochs": 2}, **only)
    assert service.ended(run) == ("COMPLETED", None)
    assert [(toy.folder / f"{name}.txt").read_text() for name in ("pack", "train", "benchmark")] == [
        "2\n",
        "1\n",
        "2\n",
    ]
    run = service.run(toy.folder, "m2det/digits", overrides={"epochs": 2}, **only)
    assert service.ended(run) == ("COMPLETED", None)
    log = service.whole_log(run)
    assert (log.count("pack prints"), log.count("benchmark prints")) == (0, 1)


def sleeping(service, toy) -> tuple[str, list[int]]:
    """A run whose stage pack waits for its child, and the ids of dvc, of the stage and of the child."""
    toy.set(sleep="pack")
    run = service.run(toy.folder)
    child = toy.folder / "child"
    service.wait_until(lambda: child.exists() and child.read_text(), 60)
    return run, [int(pid) for pid in f"{(toy.folder / 'parents').read_text()} {child.read_text()}".split()]


def test_cancelling_a_run_ends_every_process_of_it(service, toy):
    run, pids = sleeping(service, toy)
    service.command(toy.folder, "prefect", "flow-run", "cancel", run)
    assert service.ended(run)[0] == "CANCELLED"
    assert all(gone(pid) for pid in pids)


def test_killing_prefects_process_ends_those_below(service, toy):
    run, pids = sleeping(service, toy)
    engine = int(Path(f"/proc/{pids[0]}/stat").read_text().rsplit(")", 1)[1].split()[1])  # dvc's parent
    os.kill(engine, signal.SIGKILL)
    assert all(gone(pid) for pid in pids)
    assert service.ended(run)[0] == "CRASHED"


def test_serving_replaces_the_worker(service, toy):
    service.stop(service.worker)
    server = service.start("flows.serve", folder=toy.folder)
    try:
        assert service.ended(service.run(toy.folder)) == ("COMPLETED", None)
    finally:
        service.stop(server)
