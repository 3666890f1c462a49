"""The product's commands where torch_npu is installed: with CANN (simulated), and without it."""

import os
import re
import subprocess

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from m2det.files.torch_file import load_checked
from tests.conftest import ROOT
from tests.npu.build import simulated_npu_environment
from tests.npu.training import settings
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.slow

OURS = ("TORCH_DEVICE_BACKEND_AUTOLOAD", "M2DET_SIMULATED_NPU", "PREFECT_API_URL")


def command(python, *words, **environment):
    bare = {k: v for k, v in os.environ.items() if k not in OURS} | {"PREFECT_PROFILE": "ephemeral"}
    line = [str(python), "-m", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, env=bare | environment, capture_output=True, text=True, check=False)


def doctor(done):
    assert done.returncode == 0, done.stderr
    return dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines() if "  " in line)


def test_doctor_finds_the_simulated_npus(python_with_torch_npu):
    found = doctor(command(python_with_torch_npu, "m2det.cli.main", "doctor", **simulated_npu_environment()))
    assert found["CANN and torch_npu"] == "2 devices" and found["torch_npu"].startswith("2.13")
    assert found["run.device: auto"].startswith("npu: simulated NPU")
    assert found["run.device: auto"].endswith("2 of them")
    assert found["opt_level: O1"] == "float16, loss scale 32" and found["joined by"] == "hccl"
    assert found["memory format"].startswith("channels first")
    assert found["optimizer: sgd"].startswith("fused (its kernel is documented for Atlas A2")
    assert found["run.graph"].startswith("is allowed: documented for Atlas A2")


@pytest.mark.parametrize(
    "words",
    [
        ["m2det.cli.main", "doctor"],
        ["m2det.cli.main", "bench", "network", "--model", "m2det-tiny"],
        ["flows.train"],
        ["flows.evaluate"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_without_cann_a_command_is_one_sentence(python_with_torch_npu, words):
    done = command(python_with_torch_npu, *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("error: torch_npu is installed, but does not load (libhccl.so")
    assert "set_env.sh" in sentence and "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in sentence


def test_another_error_of_torch_is_not_explained_away():
    from m2det.errors import explain_missing_cann

    with pytest.raises(RuntimeError, match="something else"), explain_missing_cann():
        raise RuntimeError("something else")


def test_without_cann_and_autoload_everything_runs_on_the_cpu(python_with_torch_npu, material, tmp_path):
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    found = doctor(command(python_with_torch_npu, "m2det.cli.main", "doctor", **off))
    assert found["run.device: auto"].startswith("cpu: ") and "set_env.sh" in found["CANN and torch_npu"]
    model = write_tiny_model(tmp_path)
    cv2.imwrite(str(tmp_path / "picture.png"), np.full((80, 80, 3), 99, np.uint8))
    detect = ["m2det.cli.main", "detect", tmp_path / "picture.png", "--weights", model, "--out", tmp_path / "out"]
    for device in ("auto", "cpu"):
        done = command(python_with_torch_npu, *detect, "--device", device, **off)
        assert done.returncode == 0 and (tmp_path / "out/picture.jpg").exists(), done.stderr
    done = command(python_with_torch_npu, *detect, "--device", "npu", **off)
    assert done.returncode == 1 and "set_env.sh" in done.stderr and "Traceback" not in done.stderr
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(settings("auto", steps=1).model_dump(), file)
    done = command(
        python_with_torch_npu, "m2det.train.rank", tmp_path / "params.yaml", *material, tmp_path / "run", **off
    )
    assert done.returncode == 0 and "device: cpu" in done.stdout, done.stderr
    assert load_checked(tmp_path / "run/outcome.pt")["steps"] == 1
