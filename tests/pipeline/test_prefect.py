"""The flows on a real server, pool and worker: the pipeline itself, shortened, and toy stages that misbehave."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from urllib.error import HTTPError

import pytest

from flows.pipeline import STAGES
from tests.pipeline.service import Service
from tests.pipeline.toy import Toy
from tests.processes import gone

pytestmark = pytest.mark.slow
TASKS = ("preflight", *STAGES, "show")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("prefect"), limit=2)
    yield service
    service.stop(service.worker)
    service.stop(service.server)


@pytest.fixture(scope="module")
def deployed(service, tmp_path_factory):
    """A toy, and a copy of its folder as it is before any run."""
    toy = Toy(tmp_path_factory.mktemp("toy"))
    service.deploy(toy.folder, "digits", "eval-8p")
    return toy, shutil.copytree(toy.folder, tmp_path_factory.mktemp("before") / "toy")


@pytest.fixture
def toy(deployed, tmp_path):
    """The toy as new, in the folder that was deployed; what a failed test has left running goes on elsewhere."""
    toy, before = deployed
    toy.folder.rename(tmp_path / "used")
    shutil.copytree(before, toy.folder)
    return toy


def test_train_8p_by_its_bare_name_trains_in_eight_processes(service, prepared):
    """As on a server with eight NPUs, by gloo and with a small network on a small data set."""
    if not [e for e in entry_points(group="prefect.plugins") if e.value == "m2det_prefect"]:
        pytest.skip("m2det is not installed, so Prefect does not find its plugin: pip install -e .")
    service.deploy(prepared.folder, "train-8p")
    tiny = {
        "epochs": 1,
        "run": {"device": "cpu", "workers": 0},
        "data": {"source": "digits"},
        "weights": {"source": "random"},
        "model": {"name": "m2det-tiny"},
        "train": {"batch_size": 16, "microbatch": 2, "max_steps": 2},
        "benchmark": {"batch_size": 2, "warmup": 1, "steps": 2},
    }
    run = service.run(prepared.folder, "train-8p", overrides=tiny)
    state, message = service.ended(run, 500)
    assert state == "COMPLETED" and message.endswith(", put into the working copy"), message
    assert service.task_states(run) == {
        name: ["PENDING", "RUNNING", "COMPLETED"] for name in ("preflight", *STAGES, "show")
    }
    assert any("processes (world size) 8, " in line for line in service.whole_log(run))
    assert json.loads((prepared.folder / "results/performance.json").read_text())["processes"] == 8
    assert "AP50" in json.loads((prepared.folder / "results/metrics.json").read_text())
    assert json.loads(prepared.run("dvc", "status", "--json").stdout).keys() <= {
        "annotations",
        "benchmark",
        "performance",
    }, "always changed, and of section run"
    params = (prepared.folder / "params.yaml").read_text()
    assert re.search(r"^  processes: auto ", params, re.M), "the section run stays"


def test_a_fresh_clone_runs_digits_whatever_was_tried_before(service, toy):
    service.deploy(toy.folder, "train-8p")
    before = toy.state()
    run = service.run(toy.folder, "m2det/train-8p")
    state, message = service.ended(run)
    assert state == "FAILED" and "source 'coco2014' needs data.root" in message
    assert service.get(f"flow_runs/{run}")["name"] == "coco512-8p"
    assert toy.state() == before
    run = service.run(toy.folder)
    assert service.ended(run)[0] == "COMPLETED"
    log = service.whole_log(run)
    assert log.count("train prints") == log.count("train logs") == 1
    assert service.task_states(run) == {
        name: ["PENDING", "RUNNING", "COMPLETED"] for name in ("preflight", *STAGES, "show")
    }
    assert not any(line in service.log(run) for line in ("train prints", "train logs")), "the outline is here"
    assert (toy.folder / "benchmark.txt").read_text() == "24\n", "epochs of the recipe"
    artifacts = {
        a["key"]: a["data"] for a in service.get("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    }
    assert "\nepochs: 24 " in artifacts["settings"] and "| benchmark | Completed |" in artifacts["digits-summary"]
    assert toy.copies() == []

    before = toy.state()
    run = service.run(toy.folder, "m2det/eval-8p")
    assert service.ended(run)[0] == "COMPLETED"
    assert service.whole_log(run).count("evaluate prints") == 3, "its three steps"
    assert toy.state()[str(toy.folder / "params.yaml")] == before[str(toy.folder / "params.yaml")]


def test_a_stage_started_by_hand_has_a_log_of_its_own(service, toy):
    printed = service.command(toy.folder, sys.executable, "-m", "flows.data")
    assert "data logs" in printed
    (run,) = service.get("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert run["state"]["type"] == "COMPLETED" and run["parent_task_run_id"] is None
    assert {"data prints", "data logs"} <= set(service.whole_log(run["id"]))


def test_a_failing_stage_ends_the_run_with_its_name_and_reason(service, toy):
    toy.set(wrong="weights")
    before = toy.state()
    run = service.run(toy.folder)
    assert service.ended(run) == ("FAILED", "stage weights failed: weights.json is missing; put it there")
    assert toy.state() == before
    (copy,) = toy.copies()
    assert (copy / "pack.txt").exists() and any(str(copy) in line for line in service.whole_log(run))
    toy.set(crash="data")
    state, message = service.ended(service.run(toy.folder))
    assert state == "FAILED" and message.startswith("stage data failed: ") and "KeyError: 'lost'" in message
    assert toy.copies() != [copy] and len(toy.copies()) == 1, "the next run of the name removes it"


def test_results_come_into_the_working_copy_and_those_before_are_kept(service, toy):
    stages = {"stages": ["data", "pack"]}
    before = toy.state()
    run = service.run(toy.folder, overrides={"epochs": 3}, apply=False, **stages)
    state, message = service.ended(run)
    assert state == "COMPLETED" and f"experiment digits-{run[:8]}; to put it into" in message
    assert toy.state() == before
    params = toy.folder / "params.yaml"
    params.write_text(re.sub("(?m)^  log_every: .*", "  log_every: 7   # mine", params.read_text()))
    for epochs in (4, 5):
        assert service.ended(service.run(toy.folder, overrides={"epochs": epochs}, **stages))[0] == "COMPLETED"
        assert (toy.folder / "pack.txt").read_text() == f"{epochs}\n"
        assert "  log_every: 7   # mine\n" in params.read_text() and f"\nepochs: {epochs} " in params.read_text()
    # results that no experiment has
    service.command(toy.folder, sys.executable, "-m", "dvc", "repro", "--single-item", "ops")
    assert service.ended(service.run(toy.folder, overrides={"epochs": 6}, **stages))[0] == "COMPLETED"
    names = service.command(toy.folder, "git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
    assert len(names) == 5 and sum(name.startswith("before-digits-") for name in names) == 1
    shown = service.command(toy.folder, sys.executable, "-m", "dvc", "exp", "show", "--csv", "--hide-workspace")
    assert all(name in shown for name in names)


def test_what_others_do_beside_a_run_reaches_neither(service, toy):
    toy.set(wait="pack")
    run = service.run(toy.folder, stages=["data", "pack"])
    service.wait_until((toy.folder / "waiting").exists, 90)
    dvc = (sys.executable, "-m", "dvc")
    service.command(toy.folder, *dvc, "exp", "run", "--single-item", "-S", "epochs=7", "data")
    (toy.folder / "tasks/step.py").write_text("raise SystemExit('edited')\n")
    mine = toy.state()
    (toy.folder / "go").touch()
    state, message = service.ended(run)
    assert state == "COMPLETED" and "not put into the working copy: " in message, message
    (toy.folder / "go").unlink()
    assert toy.state() == mine and (toy.folder / "data.txt").read_text() == "7\n"
    service.command(toy.folder, "bash", "-c", message.split("git's stash: ")[-1])
    assert (toy.folder / "pack.txt").read_text() == (toy.folder / "data.txt").read_text() == "24\n"


def test_two_runs_of_one_deployment_disturb_neither(service, toy):
    toy.set(wait="pack")
    runs = [service.run(toy.folder, stages=["data", "pack"], overrides={"epochs": epochs}) for epochs in (3, 4)]
    service.wait_until(lambda: sum((copy / "data.txt").exists() for copy in toy.copies()) == 2, 90)
    (toy.folder / "go").touch()
    ends = [service.ended(run) for run in runs]
    assert [state for state, _ in ends] == ["COMPLETED", "COMPLETED"], ends
    applied = [message.endswith(", put into the working copy") for _, message in ends]
    assert sorted(applied) == [False, True] and "dvc.lock has changed" in ends[applied.index(False)][1], ends
    assert (toy.folder / "pack.txt").read_text() == f"{3 + applied.index(True)}\n" and toy.copies() == []


def test_settings_that_nobody_has_committed_are_kept(service, toy):
    """In a clone without results, too."""
    params = toy.folder / "params.yaml"
    params.write_text(params.read_text().replace("\nseed: 49 ", "\nseed: 7 "))
    run = service.run(toy.folder, stages=["data"], overrides={"seed": 8})
    assert service.ended(run)[0] == "COMPLETED" and "\nseed: 8 " in params.read_text()
    ref = service.command(toy.folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/before-*").strip()
    assert "\nseed: 7 " in service.command(toy.folder, "git", "show", f"{ref}:params.yaml")


def test_only_some_stages_and_the_last_one_in_any_case(service, toy):
    """A measurement is repeated though nothing has changed; no other stage runs that was not asked for."""
    stages = {"stages": ["data", "pack"]}
    for counts in ((1, 1), (0, 1)):
        run = service.run(toy.folder, **stages)
        assert service.ended(run)[0] == "COMPLETED"
        log = service.whole_log(run)
        assert (log.count("data prints"), log.count("pack prints")) == counts
    assert not (toy.folder / "ops.txt").exists()


def sleeping(service, toy) -> tuple[str, list[int]]:
    """A run whose stage pack waits for its child, and the ids of dvc, of the stage and of the child."""
    toy.set(sleep="pack")
    run = service.run(toy.folder)
    service.wait_until(lambda: any((copy / "child").exists() for copy in toy.copies()), 60)
    (copy,) = toy.copies()
    service.wait_until((copy / "child").read_text, 60)
    return run, [int(pid) for name in ("parents", "child") for pid in (copy / name).read_text().split()]


@pytest.mark.long  # this one and the next: tests/pipeline/test_stops.py stops real trainings so
def test_cancelling_a_run_ends_every_process_of_it(service, toy):
    run, pids = sleeping(service, toy)
    service.command(toy.folder, "prefect", "flow-run", "cancel", run)
    assert service.ended(run)[0] == "CANCELLED"
    assert all(gone(pid) for pid in pids)


@pytest.mark.long
def test_killing_prefects_process_ends_those_below(service, toy):
    run, pids = sleeping(service, toy)
    engine = int(Path(f"/proc/{pids[0]}/stat").read_text().rsplit(")", 1)[1].split()[1])  # dvc's parent
    os.kill(engine, signal.SIGKILL)
    assert all(gone(pid) for pid in pids)
    assert service.ended(run)[0] == "CRASHED"


def test_a_run_that_ends_while_the_server_is_away_is_completed_once_it_is_back(service, toy):
    toy.set(wait="pack")
    run = service.run(toy.folder, stages=["data", "pack"])
    service.wait_until((toy.folder / "waiting").exists, 90)
    service.stop(service.server)
    (toy.folder / "go").touch()
    service.wait_until((toy.folder / "pack.txt").exists, 60)
    service.start_server()
    state, message = service.ended(run)
    assert state == "COMPLETED" and message.endswith(", put into the working copy"), message


def test_a_stage_started_by_hand_ends_well_though_its_server_has_ended_before(service, toy):
    """Else DVC would throw away what days of training have made."""
    toy.set(wait="data")
    repro = service.start("dvc", "repro", "data", folder=toy.folder, PREFECT_CLIENT_MAX_RETRIES="0")
    service.wait_until((toy.folder / "waiting").exists, 90)
    service.stop(service.server)
    (toy.folder / "go").touch()
    status = repro.wait(120)
    service.start_server()
    printed = (service.home / "repro.log").read_text()
    assert status == 0 and "data: has ended, and the Prefect server could not be told so" in printed, printed
    assert "Traceback" not in printed and "data:" in (toy.folder / "dvc.lock").read_text()


def test_a_mistake_is_refused_when_the_run_is_submitted(service, toy):
    right = {"stages": ["data"], "overrides": {"epochs": 3, "train": {"lr": 1}}, "apply": False}
    run = service.run(toy.folder, **right)
    command = ["prefect", "deployment", "run", "m2det/digits", "-p", 'overrides={"epoch": 3}']
    done = subprocess.run(command, cwd=toy.folder, env=service.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "not allowed ('epoch' was unexpected)" in " ".join(done.stdout.split()), done
    deployment = service.get("deployments/name/m2det/digits")["id"]
    for wrong in ({"overrides": {"train": {"lr": "0.1"}}}, {"overrides": {"epochs": 0}}, {"recipe": "coco"}):
        with pytest.raises(HTTPError, match="409"):
            service.get(f"deployments/{deployment}/create_flow_run", {"parameters": wrong})
    assert service.ended(run)[0] == "COMPLETED"
    shown = service.get(f"flow_runs/{run}")
    commit = service.command(toy.folder, "git", "rev-parse", "HEAD")[:6]
    assert shown["name"] == f"digits data, {commit}" and shown["flow_version"].startswith(commit)
    assert shown["parameters"] == {"recipe": "digits", **right}
    assert toy.copies() == []
