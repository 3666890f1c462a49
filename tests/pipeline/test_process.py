"""No process outlives the one that started it, and wrong input is one sentence."""

import os
import signal
import subprocess
import sys
import time

import pytest

from m2det.distributed.children import relay_child, run_child
from tests.conftest import ROOT
from tests.processes import gone

CHILD = "import time; time.sleep(600)"


def run_python(code: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


PARENT = f"""
import os, subprocess, sys
from functools import partial
from m2det.distributed.children import die_with_parent
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], preexec_fn=partial(die_with_parent, os.getpid()))
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_its_parent(number):
    parent = run_python(PARENT)
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    parent.wait()
    assert gone(child)


def test_sigterm_to_a_stage_is_an_exit_that_ends_its_child():
    code = """
import sys
from m2det.distributed.children import run_child, stage_process
stage_process()
print("ready", flush=True)
run_child([sys.executable, "-c", 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'])
"""
    stage = run_python(code)
    assert stage.stdout.readline() == "ready\n"
    child = int(stage.stdout.readline())
    stage.terminate()
    assert stage.wait(60) == 143
    assert gone(child)


SLOW_TO_START = """
import os, pathlib, sys, time
from m2det.distributed.children import stage_process
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
stage_process()
pathlib.Path(sys.argv[2]).touch()
"""
DVC = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLOW_TO_START!r}, str(os.getpid()), sys.argv[1]])
print(child.pid, flush=True)
"""


def test_a_stage_whose_dvc_ended_while_python_started_ends_too(tmp_path):
    """Nothing has asked the kernel for a signal by then; on a busy machine these are seconds."""
    marker = tmp_path / "lives"
    command = [sys.executable, "-c", DVC, str(marker)]
    environment = os.environ | {"DVC_STAGE": "evaluate"}
    dvc = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    child = int(dvc.stdout.readline())
    dvc.wait()
    assert gone(child) and not marker.exists()


def test_a_failing_child_raises_and_its_lines_are_relayed():
    with pytest.raises(subprocess.CalledProcessError):
        run_child([sys.executable, "-c", "raise SystemExit(3)"])
    lines = []
    relay_child([sys.executable, "-c", "print('one'); print('two')"], lines.append)
    assert lines == ["one", "two"]


def test_an_interrupted_relay_ends_the_group():
    pids = []

    def interrupt(line):
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relay_child([sys.executable, "-c", f"import os; print(os.getpid(), flush=True); {CHILD}"], interrupt)
    assert gone(pids[0])


def run_stage(step: str) -> subprocess.CompletedProcess:
    code = f"""
from flows.stage import run_stage
from m2det.errors import InputError
def step():
    {step}
run_stage("trial", step)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PREFECT_HOME": "/nonexistent"
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_a_plain_stage_says_so_and_runs():
    done = run_stage("print('working')")
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["trial: no Prefect API configured, running plainly", "working"]


def test_wrong_input_is_one_sentence_and_a_bug_is_a_traceback():
    wrong = run_stage("raise InputError('the file is missing; put it there')")
    assert (wrong.returncode, wrong.stderr) == (1, "error: the file is missing; put it there\n")
    bug = run_stage("raise KeyError('x')")
    assert bug.returncode == 1 and "Traceback" in bug.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killing_dvc_ends_its_stage(clone, number):
    (clone.folder / "flows" / "ops.py").write_text(
        "import os, pathlib, time\nfrom flows.stage import run_stage\n"
        "def wait():\n    pathlib.Path('pid').write_text(str(os.getpid()))\n    time.sleep(600)\n"
        "run_stage('ops', wait)\n"
    )
    # DVC starts stages by $SHELL; /bin/sh, often dash, stays in between where the command has no exec
    environment = dict(os.environ, PYTHONPATH=str(clone.folder), PREFECT_HOME="/nonexistent", SHELL="/bin/sh")
    environment["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{environment['PATH']}"  # noqa: PTH120
    command = [sys.executable, "-m", "dvc", "repro", "-s", "ops"]
    dvc = subprocess.Popen(command, cwd=clone.folder, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (clone.folder / "pid").exists() or not (clone.folder / "pid").read_text():
        assert time.monotonic() < deadline and dvc.poll() is None
        time.sleep(0.05)
    stage = int((clone.folder / "pid").read_text())
    dvc.send_signal(number)
    dvc.wait()
    assert gone(stage)
