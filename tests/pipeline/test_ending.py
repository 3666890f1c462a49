"""A stage that is told to stop ends: by itself, or when its grace is over; and as well without a terminal."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.processes import gone
from tests.terminal import Terminal, python

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"PREFECT_HOME": "/nonexistent"}
STAGE = """
import os, sys, time
from pathlib import Path
from flows.stage import run_stage
from m2det.distributed.shutdown import SHUTDOWN
def step():
    SHUTDOWN.grace = 1
    Path(sys.argv[1], "pid.tmp").write_text(str(os.getpid()))
    os.replace(Path(sys.argv[1], "pid.tmp"), Path(sys.argv[1], "pid"))
    {step}
run_stage("trial", step)
"""
NEVER = """
    while True:
        try: time.sleep(600)
        except BaseException: pass
"""
IN_C = """
    import hashlib
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
LINES = """
    for i in range(30):
        print(i)
        print(i, file=sys.stderr)
        time.sleep(0.05)
    Path(sys.argv[1], "done").touch()
"""
SENTENCE = "error: the work did not end within 1 s; the same command goes on from what is saved; "


def stage(step, folder, **options):
    command = [*python(STAGE.format(step=step)), folder]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE, **options)


def started(folder, within=30.0) -> int:
    deadline = time.monotonic() + within
    while not (folder / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int((folder / "pid").read_text())


@pytest.mark.parametrize(
    ("step", "name"),
    [
        pytest.param(NEVER, "SIGTERM", id="SIGTERM"),
        pytest.param(NEVER, "SIGHUP", id="SIGHUP"),
        pytest.param(NEVER, "SIGINT", id="SIGINT"),
        pytest.param(IN_C, "SIGTERM", id="in C"),
    ],
)
def test_a_step_that_never_ends_is_ended_with_one_sentence(tmp_path, step, name):
    process = stage(step, tmp_path, stdout=subprocess.DEVNULL)
    os.kill(started(tmp_path), getattr(signal, name))
    begin = time.monotonic()
    said = process.communicate(timeout=60)[1]
    assert 0.9 < time.monotonic() - begin < 20
    assert process.returncode == 128 + getattr(signal, name)
    [line] = said.splitlines()
    assert line.startswith(SENTENCE)
    log = line.removeprefix(SENTENCE).removesuffix(" says where it was")
    assert "in step" in Path(log).read_text()
    Path(log).unlink()


def test_killing_what_is_above_ends_it_too(tmp_path):
    """As `kill -9` of DVC: the kernel tells its stage."""
    command = [*python(STAGE.format(step=NEVER)), str(tmp_path)]
    above = subprocess.Popen(python(f"import subprocess; subprocess.run({command})"), cwd=ROOT, env=ENVIRONMENT)
    pid = started(tmp_path)
    above.kill()
    above.wait()
    assert not gone(pid, within=0.7)
    assert gone(pid, within=60)


def test_a_closed_terminal_is_an_exit(tmp_path):
    terminal = Terminal([*python(STAGE.format(step=LINES)), str(tmp_path)], ROOT, ENVIRONMENT)
    started(tmp_path)
    terminal.close()
    assert terminal.wait(60) == 128 + signal.SIGHUP
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("way", ["nohup", "setsid"])
def test_what_is_to_outlive_the_terminal_does(tmp_path, way):
    """With SIGHUP ignored, or in a session of its own, whose output goes to a terminal that is gone."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    begin = ["setsid", "--fork"] if way == "setsid" else ["nohup"]
    command = [*begin, *python(STAGE.format(step=LINES)), str(tmp_path)]
    shell = ["sh", "-c", '"$@" & cat', "sh", *command]  # the leader of the session, which SIGHUP ends
    terminal = Terminal(shell, tmp_path, ENVIRONMENT | {"PYTHONPATH": str(ROOT)})
    pid = started(tmp_path)
    terminal.close()
    terminal.wait(60)
    assert gone(pid, within=60)
    assert (tmp_path / "done").exists()
    assert way == "setsid" or (tmp_path / "nohup.out").read_text().splitlines()[-1] == "29"


def test_a_reader_that_has_gone_ends_nothing(tmp_path):
    process = stage(LINES, tmp_path, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("kind", ["SIGINT", "SIGHUP"])
def test_a_signal_ignored_at_the_start_stays_ignored(tmp_path, kind):
    number = getattr(signal, kind)
    process = stage(
        LINES, tmp_path, stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN)
    )
    os.kill(started(tmp_path), number)
    assert process.communicate(timeout=60) and process.returncode == 0
    assert (tmp_path / "done").exists()


def test_whoever_waits_for_others_ends_later(tmp_path):
    """The stage waits for a child that was told to stop: its own grace is the child's and more."""
    code = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(tmp_path)!r}, 'ready').touch(); time.sleep(600)"
    )
    step = (
        f"from m2det.distributed.children import run_child\n    run_child([sys.executable, '-c', {code!r}], grace=2.0)"
    )
    process = stage(step, tmp_path, stdout=subprocess.DEVNULL)
    pid = started(tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    os.kill(pid, signal.SIGTERM)
    begin = time.monotonic()
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 143
    assert 1.9 < time.monotonic() - begin < 20, "not after its own second"
