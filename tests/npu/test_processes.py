"""Two processes train as one over torch_npu's real ProcessGroupHCCL, by the command that a stage runs."""

import os
import signal
import subprocess
import time

import pytest
import torch
from ruamel.yaml import YAML

from m2det.files.torch_file import load_checked
from m2det.train.checkpoint import checkpoints, step_of
from tests.conftest import ROOT
from tests.npu.build import simulated_npu_environment
from tests.npu.training import settings

pytestmark = pytest.mark.slow

CHIP = "Ascend950DT"  # ProcessGroupHCCL pads what it sends with kernels of the chip on 910B, but not on this one
SETTINGS = {"TORCH_NPU_FALLBACK_CPU_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def torchrun(python, material, folder, kind, program="m2det.train.rank"):
    folder.mkdir(parents=True, exist_ok=True)
    params = settings(kind, steps=9, batch_size=4, microbatch=2, ema_decay=0.9).model_dump()
    params["run"]["processes"] = 2
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params, file)
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", program]
    command += [folder / "params.yaml", *material, folder / "state"]
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=simulated_npu_environment(CHIP) | SETTINGS,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def outcome(process, folder):
    assert process.wait(200) == 0, (folder / "output.txt").read_text()[-3000:]
    return load_checked(folder / "state/outcome.pt")


@pytest.fixture(scope="module")
def undisturbed(python_with_torch_npu, material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("npu")
    found = outcome(torchrun(python_with_torch_npu, material, folder, "npu"), folder)
    assert "device: npu (requested)" in (folder / "output.txt").read_text()
    return found


def assert_same(found, wanted):
    assert found["rows"] == wanted["rows"] and found["steps"] == wanted["steps"] == 9
    for name, value in wanted["model"].items():
        assert torch.equal(found["model"][name], value), name


def test_the_weights_are_those_of_two_processes_on_the_cpu(python_with_torch_npu, material, undisturbed, tmp_path):
    process = torchrun(python_with_torch_npu, material, tmp_path, "cpu", "tests.npu.in_order_of_the_npu")
    assert_same(undisturbed, outcome(process, tmp_path))


def test_a_run_stopped_by_sigterm_continues_to_the_same_bits(python_with_torch_npu, material, undisturbed, tmp_path):
    process = torchrun(python_with_torch_npu, material, tmp_path, "npu")
    while not checkpoints(tmp_path / "state"):
        assert process.poll() is None, (tmp_path / "output.txt").read_text()[-3000:]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) != 0
    step = step_of(checkpoints(tmp_path / "state")[-1])
    assert 0 < step < 9
    assert_same(outcome(torchrun(python_with_torch_npu, material, tmp_path, "npu"), tmp_path), undisturbed)
    assert f"resuming at step {step} of 9" in (tmp_path / "output.txt").read_text()
