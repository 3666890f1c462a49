"""On a real server: mistakes are refused when a run is submitted, and a run says what it is."""

import json
import subprocess

import pytest

from tests.pipeline.test_prefect import Service
from tests.pipeline.toy import Toy

pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("prefect"))
    yield service
    service.stop(service.worker)
    service.stop(service.server)


def test_a_mistake_is_refused_when_the_run_is_submitted(service, tmp_path):
    toy = Toy(tmp_path)
    service.command(tmp_path, "prefect", "--no-prompt", "deploy", "--all")
    right = {"stages": ["data"], "overrides": {"epochs": 3, "train": {"lr": 1}}, "apply": False}
    run = service.run(tmp_path, **right)
    for wrong, sentence in (
        ({"overrides": {"epoch": 3}}, "Additional properties are not allowed ('epoch' was unexpected)"),
        ({"overrides": {"train": {"lr": "0.1"}}}, "Validation failed for field 'overrides.train.lr'"),
        ({"overrides": {"epochs": 0}}, "0 is less than the minimum of 1"),
        ({"recipe": "coco"}, "Validation failed for field 'recipe'"),
        ({"only": ["data"]}, "parameters are available on the deployment: recipe, stages, overrides, apply"),
    ):
        command = ["prefect", "deployment", "run", "m2det/digits", "--params", json.dumps(wrong)]
        done = subprocess.run(
            command, cwd=tmp_path, env=service.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and sentence in " ".join((done.stdout + done.stderr).split()), done
    assert service.ended(run)[0] == "COMPLETED"
    shown = service.get(f"flow_runs/{run}")
    commit = service.command(tmp_path, "git", "rev-parse", "HEAD")[:6]
    assert shown["name"] == f"digits data, {commit}" and shown["flow_version"].startswith(commit)
    assert shown["parameters"] == {"recipe": "digits", **right}
    assert toy.copies() == []
