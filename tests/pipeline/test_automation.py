"""The automation that finds runs without a process: which runs it watches, and on a real server that goes and comes."""

import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from ruamel.yaml import YAML

from flows.guard import ALIVE
from flows.pipeline import STAGES
from tests.conftest import ROOT
from tests.pipeline.service import Server
from tests.processes import gone

FILE = ROOT / "prefect-automations.yaml"
WITHIN, TO_CRASH, TO_REVIVE = 12, 90, 60  # seconds, on a busy machine
RUN = """
import sys, time
from uuid import UUID
from prefect import flow, flow_engine
from prefect.runtime import flow_run
from flows.guard import start_guard
flow_engine.MINIMUM_HEARTBEAT_INTERVAL = flow_engine.BaseFlowRunEngine.heartbeat_seconds = 1
@flow(name=sys.argv[1])
def trial():
    start_guard(UUID(flow_run.id))
    print(flow_run.id, flush=True)
    time.sleep(600)
trial()
"""


def test_the_automation_watches_the_flows_of_this_project_and_waits_for_three_heartbeats_of_the_default():
    (entry,) = YAML(typ="safe").load(FILE)["automations"]
    trigger = AutomationCore.model_validate(entry).trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.within.total_seconds() > 3 * 180
    assert trigger.after < trigger.expect, "another heartbeat, or the end of the run"
    deployed = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    entrypoints = {deployment["entrypoint"] for deployment in deployed}
    names = [_import_entry(entry).name for entry in entrypoints] + [f"m2det-{stage}" for stage in STAGES]
    watched = [name for name in (*names, "other", "my-m2det") if _is_watched(trigger, name)]
    assert watched == names and len(entrypoints) == 3


def _import_entry(entrypoint: str):
    file, _, name = entrypoint.partition(":")
    return getattr(import_module(file.removesuffix(".py").replace("/", ".")), name)


def _is_watched(trigger, name: str) -> bool:
    from prefect.server.events.schemas.automations import EventTrigger as ServersTrigger
    from prefect.server.events.schemas.events import RelatedResource, Resource

    run = Resource.model_validate({"prefect.resource.id": "prefect.flow-run.1"})
    flow = {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow", "prefect.resource.name": name}
    related = [RelatedResource.model_validate(flow)]
    return ServersTrigger.model_validate(trigger.model_dump()).covers_resources(run, related)


class Run:
    """A flow run of a name, started without a deployment, whose heart beats every second."""

    def __init__(self, server, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, name],
            env=server.environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.id = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End process and guard, as a machine that loses power."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            line = path.read_bytes() if path.exists() else b""
            if b"flows.guard" in line and self.id.encode() in line:
                os.kill(int(path.parent.name), signal.SIGKILL)
                assert gone(int(path.parent.name))
        self.process.kill()
        self.process.wait()


@pytest.mark.slow
@pytest.mark.long
def test_silent_runs_crash_and_living_ones_survive_a_server_that_was_away(tmp_path):
    server = Server(tmp_path / "server")
    runs = []
    try:
        shorter, count = re.subn(r"within: \d+", f"within: {WITHIN}", FILE.read_text())
        assert count == 1
        (tmp_path / FILE.name).write_text(shorter)
        server.command(tmp_path, "prefect", "automation", "create", "--from-file", FILE.name)
        for name in ("m2det", "m2det-train", "other", "m2det"):
            runs.append(Run(server, name))
        *killed, living = runs
        time.sleep(3)  # for two heartbeats
        for run in killed:
            run.kill()
        server.wait_until(lambda: [server.state(run.id) for run in killed[:2]] == ["CRASHED"] * 2, TO_CRASH)
        assert server.state(living.id) == "RUNNING"

        server.server.kill()
        server.server.wait()
        time.sleep(WITHIN)
        server.start_server()
        server.wait_until(lambda: "CRASHED" in _states(server, living.id), TO_CRASH)
        server.wait_until(lambda: server.state(living.id) == "RUNNING", TO_REVIVE)
        time.sleep(3 * WITHIN)
        assert _states(server, living.id)[-2:] == ["CRASHED", "RUNNING"], "its heart beats on"
        assert server.get(f"flow_runs/{living.id}")["state"]["message"] == ALIVE
        assert living.process.poll() is None
        assert server.state(killed[2].id) == "RUNNING", "another project's"
    finally:
        for run in runs:
            run.kill()
        server.stop(server.server)


def _states(server, run: str) -> list[str]:
    return [state["type"] for state in server.get(f"flow_run_states/?flow_run_id={run}")]
