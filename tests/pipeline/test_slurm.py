"""A training on two nodes of a real Slurm, by the file in deploy/, submitted and watched by a run of Prefect."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import Clone
from tests.pipeline.service import Service
from tests.pipeline.slurm_cluster import Cluster, missing_programs

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(missing_programs()), reason=f"no Slurm here: {', '.join(missing_programs())} missing"),
]
PARTS = ["-S", "train.microbatch=2", "-S", "run.processes=1"]  # of 4 images, 2 on each node


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("prefect"), environment=cluster.environment | {"OMP_NUM_THREADS": "1"})
    yield made
    made.stop(made.worker)
    made.stop(made.server)


@pytest.fixture
def project(prepared: Clone, service: Service) -> Path:
    """A clone with a packed cache and a backbone, in git as far as `dvc exp run --temp` needs it."""
    git = "git -c user.name=test -c user.email=test@localhost"
    prepared.shell(f"git add dvc.lock params.yaml && {git} commit -qm prepared")
    service.deploy(prepared.folder, "slurm")
    return prepared.folder


def test_slurm_accepts_the_file(cluster, project):
    done = cluster.run("sbatch", "--test-only", "deploy/slurm.sbatch", folder=project)
    assert done.returncode == 0 and "on nodes one,two" in done.stderr.replace("[", "").replace("]", ""), done.stderr


def test_a_run_submits_a_job_of_two_nodes_and_ends_with_it(cluster, service, project):
    before = (project / "params.yaml").read_text()
    run = service.run(project, "slurm/slurm", arguments=["--name", "two", *PARTS, "evaluate"])
    state, message = service.ended(run, 600)
    log = service.whole_log(run)
    assert state == "COMPLETED", (message, log)
    assert cluster.states()[-1] == "COMPLETED" and "has completed; its log is" in message
    nodes = [line for line in log if line.startswith("2 nodes: node 0 ")]
    assert len(nodes) == 2, "training and evaluation share both nodes"
    assert any(line.startswith("step 3/3") for line in log)
    assert (project / "params.yaml").read_text() == before
    assert Clone(project).run("dvc", "exp", "list", "--name-only").stdout.split() == ["two"]


def test_a_cancelled_run_cancels_its_job_which_saves_and_the_next_one_goes_on(cluster, service, project):
    arguments = [*PARTS, "-S", "train.max_steps=40", "-S", "run.log_every=1", "train"]
    run = service.run(project, "slurm/slurm", arguments=arguments)
    service.wait_until(lambda: any("step 3/40" in line for line in service.task_log(run)), 300)
    service.command(project, sys.executable, "-m", "prefect", "flow-run", "cancel", run)
    state, message = service.ended(run)
    assert state == "CANCELLED" and "Slurm's job" in message, message
    service.wait_until(lambda: cluster.states()[-1] == "CANCELLED", 60)  # COMPLETING, while processes are left
    assert list((project / "models/unfinished").iterdir())
    again = service.run(project, "slurm/slurm", arguments=arguments)
    state, message = service.ended(again, 600)
    log = service.whole_log(again)
    assert state == "COMPLETED", (message, log)
    [begun] = [line for line in log if line.startswith("training m2det-tiny from step ")]
    assert " from step 0 " not in begun
