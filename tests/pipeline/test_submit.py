"""On a real server: mistakes are refused when a run is submitted, and a run says what it is."""

import subprocess
from urllib.error import HTTPError

import pytest

from tests.pipeline.service import Service
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
    service.deploy(tmp_path, "digits")
    right = {"stages": ["data"], "overrides": {"epochs": 3, "train": {"lr": 1}}, "apply": False}
    run = service.run(tmp_path, **right)
    command = ["prefect", "deployment", "run", "m2det/digits", "-p", 'overrides={"epoch": 3}']
    done = subprocess.run(command, cwd=tmp_path, env=service.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "not allowed ('epoch' was unexpected)" in " ".join(done.stdout.split()), done
    deployment = service.get("deployments/name/m2det/digits")["id"]
    for wrong in ({"overrides": {"train": {"lr": "0.1"}}}, {"overrides": {"epochs": 0}}, {"recipe": "coco"}):
        with pytest.raises(HTTPError, match="409"):
            service.get(f"deployments/{deployment}/create_flow_run", {"parameters": wrong})
    assert service.ended(run)[0] == "COMPLETED"
    shown = service.get(f"flow_runs/{run}")
    commit = service.command(tmp_path, "git", "rev-parse", "HEAD")[:6]
    assert shown["name"] == f"digits data, {commit}" and shown["flow_version"].startswith(commit)
    assert shown["parameters"] == {"recipe": "digits", **right}
    assert toy.copies() == []
