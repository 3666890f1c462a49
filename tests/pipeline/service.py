"""A Prefect server, a pool and a worker of their own, for tests that start runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Server:
    """A Prefect server of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.home, self.url = home, f"http://127.0.0.1:{self._port}/api"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_"))} | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "DVC_NO_ANALYTICS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",  # instead of 10: tests wait less
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.environment.pop("PYTHONPATH", None)
        self.start_server()

    def start_server(self) -> None:
        """Start the server, again as well, and wait until it answers."""
        self.server = self.start("prefect", "server", "start", "--port", str(self._port))
        self.wait_until(self.healthy, 90)

    def start(self, *command: str, folder: Path | None = None, **environment: str) -> subprocess.Popen:
        with (self.home / f"{command[1]}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder or self.home,
                env=self.environment | {"PREFECT_PLUGINS_ENABLED": "false"} | environment,
                stdout=log,
                stderr=log,
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

    def deploy(self, folder: Path, *names: str) -> None:
        """Register deployments of the project in the folder."""
        words = [word for name in names for word in ("--name", name)]
        self.command(folder, "prefect", "--no-prompt", "deploy", *words)

    def run(self, folder: Path, name: str = "m2det/digits", **parameters: object) -> str:
        """The id of a new run of the deployment.

        By its bare name as typed in the folder, by FLOW/DEPLOYMENT as from the UI, which takes some seconds less.
        """
        if "/" in name:
            deployment = self.get(f"deployments/name/{name}")["id"]
            return self.get(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
        words = ["prefect", "deployment", "run", name, *(["--params", json.dumps(parameters)] if parameters else [])]
        return self.command(folder, *words).split("UUID: ")[1].split()[0]

    def ended(self, run: str, seconds: float = 240) -> tuple[str, str]:
        """Type and message of the state in which the run ended."""
        self.wait_until(lambda: self.state(run) in ENDED, seconds)
        state = self.get(f"flow_runs/{run}")["state"]
        return state["type"], state["message"]

    def state(self, run: str) -> str:
        """The type of the run's state now."""
        return self.get(f"flow_runs/{run}")["state"]["type"]

    def tasks(self, run: str) -> dict[str, str]:
        """State types of the run's tasks by name, in order."""
        return {task["name"]: task["state"]["type"] for task in self._tasks(run)}

    def _tasks(self, run: str) -> list[dict]:
        wanted = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return self.get("task_runs/filter", wanted)

    def task_states(self, run: str) -> dict[str, list[str]]:
        """All states, in order, that the run's tasks have had."""
        tasks = self._tasks(run)
        return {t["name"]: [s["type"] for s in self.get(f"task_run_states/?task_run_id={t['id']}")] for t in tasks}

    def log(self, run: str) -> list[str]:
        """The messages on the run's own page."""
        return self._log({"flow_run_id": {"any_": [run]}})

    def task_log(self, run: str) -> list[str]:
        """The messages on the pages of the run's tasks."""
        return self._log({"task_run_id": {"any_": [task["id"] for task in self._tasks(run)]}})

    def _log(self, of: dict) -> list[str]:
        lines, page = [], 200
        while True:
            more = {"logs": of, "sort": "TIMESTAMP_ASC", "limit": page, "offset": len(lines)}
            new = self.get("logs/filter", more)
            lines += [line["message"] for line in new]
            if len(new) < page:
                return lines

    def whole_log(self, run: str) -> list[str]:
        """The messages of a run that has ended and of its tasks, once the last one has come: they come in batches."""
        last = "Finished in state"
        self.wait_until(lambda: sum(line.startswith(last) for line in self.log(run)) == len(self._tasks(run)) + 1, 60)
        return [*self.log(run), *self.task_log(run)]

    def get(self, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        while True:
            try:
                return json.load(urllib.request.urlopen(request, timeout=30))
            except urllib.error.HTTPError as error:
                if error.code != 503:  # the database is locked by another request
                    raise
                time.sleep(1)

    def healthy(self) -> bool:
        try:
            return self.get("health")
        except OSError:
            return False

    def wait_until(self, condition, seconds: float, why=lambda: "not in time") -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, why()
            time.sleep(0.5)


class Service(Server):
    """A Prefect server, a pool and a worker of their own; projects deploy to it and start runs, one after another."""

    def __init__(self, home: Path, limit: int = 1, environment: dict[str, str] | None = None) -> None:
        """Start them; the environment reaches the worker's runs, and is not the server's."""
        super().__init__(home)
        self._limit, self._worker_environment = limit, environment or {}
        self.command(home, "prefect", "work-pool", "create", "m2det", "--type", "process")
        self.start_worker()

    def start_worker(self) -> None:
        command = ("prefect", "worker", "start", "--pool", "m2det", "--limit", str(self._limit))
        self.worker = self.start(*command, **self._worker_environment)
