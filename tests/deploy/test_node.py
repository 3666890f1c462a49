"""deploy/node.sh gives each node its part, and hands a signal on to all of it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

# a stand-in for DVC, as far as signals go: a parent that dies at once, a stage that saves and says so
STAND_IN = """#!/bin/bash
echo "$(basename "$0")" "$@"
env | grep -E '^(PET_|RANK|WORLD_SIZE|LOCAL_|MASTER_)' || true
if [ -n "${SLOW:-}" ]; then
  bash -c 'trap "sleep 0.5; echo saved > saved; exit 143" TERM; touch started; while :; do sleep 0.05; done' &
  wait
fi
exit "${CODE:-0}"
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    for name in ("node.sh", "slurm.sbatch"):
        shutil.copy(ROOT / "deploy" / name, tmp_path / "deploy")
    for name in ("dvc", "python"):
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
    return tmp_path


def environment(clone: Path, **more: str) -> dict[str, str]:
    return os.environ | {"PATH": f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}"} | more


def node(clone: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a scheduler does: by its path, from another folder."""
    command = [str(clone / "deploy/node.sh"), *arguments]
    return subprocess.run(command, cwd="/", env=environment(clone, **more), capture_output=True, text=True, check=False)


def test_the_first_node_runs_the_stages_as_an_experiment_with_the_jobs_nodes(clone):
    done = node(clone, "0", "3", "first:29500")
    assert done.stdout.split("\n")[0] == ("dvc exp run --temp -S run.nodes=3 -S run.rendezvous=first:29500 evaluate"), (
        done.stderr
    )


def test_arguments_are_handed_on_as_they_are(clone):
    done = node(clone, "0", "2", "first:29500", "--name", "a b", "-S", "epochs=2", "train")
    assert done.stdout.strip().endswith("--name a b -S epochs=2 train")


def test_every_other_node_joins_with_the_packed_cache_that_it_has(clone):
    assert node(clone, "1", "3", "first:29500").stdout.strip() == (
        "python -m m2det join first:29500 --cache data/cache --stay"
    )
    assert "--cache /local/cache " in node(clone, "2", "3", "first:29500", M2DET_CACHE="/local/cache").stdout


def test_what_the_scheduler_says_of_its_own_processes_reaches_no_process_of_ours(clone):
    """torchrun would take PET_NNODES, and a single process RANK, for its own."""
    said = {
        "RANK": "1",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "PET_NNODES": "2",
        "PET_NODE_RANK": "1",
    }
    for index in ("0", "1"):
        assert len(node(clone, index, "2", "first:29500", **said).stdout.splitlines()) == 1


def test_the_exit_code_is_the_parts(clone):
    assert node(clone, "0", "2", "first:29500").returncode == 0
    assert node(clone, "1", "2", "first:29500", CODE="3").returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_stage_which_saves_before_the_script_ends(clone, number):
    """DVC has no handler: it dies, and the stage would end with its container, without a checkpoint."""
    command = [str(clone / "deploy/node.sh"), "0", "2", "first:29500"]
    process = subprocess.Popen(command, cwd="/", env=environment(clone, SLOW="1"), stdout=subprocess.DEVNULL)
    while not (clone / "started").exists():
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) != 0
    assert (clone / "saved").read_text() == "saved\n"


def test_a_slurm_job_starts_one_task_a_node_with_a_port_of_its_own(clone):
    """With a stand-in for srun that starts the tasks here, as Slurm would on their nodes."""
    srun = clone / "bin/srun"
    srun.write_text(
        '#!/bin/bash\n[ "$1" = --kill-on-bad-exit=1 ] && shift\n'
        'for i in 0 1; do SLURM_PROCID=$i SLURM_NTASKS=2 "$@"; done\n'
    )
    srun.chmod(0o755)
    for job, port in (("7", 20014), ("4999", 29998), ("5000", 20000)):
        done = subprocess.run(
            ["bash", str(clone / "deploy/slurm.sbatch"), "-S", "epochs=2", "train"],
            env=environment(clone, SLURM_SUBMIT_DIR=str(clone), SLURM_JOB_ID=job),
            capture_output=True,
            text=True,
        )
        address = f"{os.uname().nodename}:{port}"
        assert done.stdout.splitlines() == [
            f"dvc exp run --temp -S run.nodes=2 -S run.rendezvous={address} -S epochs=2 train",
            f"python -m m2det join {address} --cache data/cache --stay",
        ], done.stderr


@pytest.mark.parametrize("name", ["node.sh", "slurm.sbatch"])
def test_the_scripts_have_no_fault_that_shellcheck_knows(name):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(ROOT / "deploy" / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
