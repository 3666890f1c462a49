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
if [ -n "${WAIT:-}" ] && [ "$(basename "$0")" = python ]; then
  trap 'touch ended; exit 143' TERM
  touch joining
  while :; do sleep 0.05; done
fi
while [ -n "${WAIT:-}" ] && ! [ -e joining ]; do sleep 0.05; done
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


def slurm_job(clone: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the batch script as Slurm does on the first node, with a stand-in for srun that starts one task here."""
    srun = clone / "bin/srun"
    srun.write_text('#!/bin/bash\necho srun "${@:1:3}"\nexec "${@:4}"\n')
    srun.chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(clone), "SLURM_JOB_ID": "7", "SLURM_NNODES": "3"}
    command = ["bash", str(clone / "deploy/slurm.sbatch"), *arguments]
    return subprocess.run(command, env=environment(clone, **slurm | more), capture_output=True, text=True, check=False)


def test_a_slurm_job_gives_the_first_node_the_stages_and_the_others_a_step_to_join(clone):
    done = slurm_job(clone, "-S", "epochs=2", "train", WAIT="1")
    address = f"{os.uname().nodename}:20014"
    assert {
        "srun --nodes=2 --ntasks=2 --relative=1",
        f"python -m m2det join {address} --cache data/cache --stay",
        f"dvc exp run --temp -S run.nodes=3 -S run.rendezvous={address} -S epochs=2 train",
    } <= set(done.stdout.splitlines()), done.stderr
    assert done.returncode == 0


def test_the_end_of_the_first_node_ends_a_slurm_job_with_its_exit_code(clone):
    assert slurm_job(clone, WAIT="1", CODE="3").returncode == 3
    assert (clone / "ended").exists(), "the node that joins does not wait for a further stage"


@pytest.mark.parametrize(("job", "port"), [("7", 20014), ("4999", 29998), ("5000", 20000), ("123456", 26912)])
def test_jobs_on_one_host_have_ports_of_their_own(clone, job, port):
    assert f":{port} evaluate" in slurm_job(clone, SLURM_JOB_ID=job, SLURM_NNODES="1").stdout


@pytest.mark.parametrize("name", ["node.sh", "slurm.sbatch"])
def test_the_scripts_have_no_fault_that_shellcheck_knows(name):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(ROOT / "deploy" / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
