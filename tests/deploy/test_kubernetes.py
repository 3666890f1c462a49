"""The Kubernetes files have the published resources' fields, and give each Pod its part of one training."""

import os
import re
import subprocess
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.deploy.kubernetes_fields import ASCEND_JOB, RUNTIME, TRAIN_JOB

# what ascend-operator sets for the framework pytorch (pkg/controllers/v1/env.go), and Kubeflow Trainer for its policy
# torch (pkg/runtime/framework/plugins/torch/torch.go)
INJECTED = {
    "ascendjob": {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"},
    "trainjob": {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"},
}


def documents(name: str) -> dict[str, Any]:
    found = YAML(typ="safe").load_all(ROOT / "deploy" / f"{name}.yaml")
    return {document["kind"]: document for document in found}


def faults(document: Any, schema: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]


@pytest.fixture
def ascend() -> dict[str, Any]:
    return documents("ascendjob")["AscendJob"]


@pytest.fixture
def kubeflow() -> dict[str, Any]:
    return documents("trainjob")


def test_the_files_have_only_published_fields_of_their_types(ascend, kubeflow):
    assert faults(ascend, ASCEND_JOB) == []
    assert list(kubeflow) == ["ClusterTrainingRuntime", "TrainJob"]
    assert faults(kubeflow["ClusterTrainingRuntime"], RUNTIME) == []
    assert faults(kubeflow["TrainJob"], TRAIN_JOB) == []


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda job: job["spec"].update(replicas=2), "$.spec: Additional properties"),
        (lambda job: job["metadata"]["labels"].update({"fault-retry-times": 3}), "3 is not of type 'string'"),
        (lambda job: job["spec"]["replicaSpecs"]["Master"].update(replicas=2), "1 was expected"),
        (lambda job: job["spec"]["replicaSpecs"].pop("Master"), "'Master' is a required property"),
    ],
)
def test_a_field_that_the_operator_refuses_is_seen(ascend, break_it, said):
    break_it(ascend)
    assert any(said in fault for fault in faults(ascend, ASCEND_JOB))


def test_the_operator_finds_what_it_looks_for_in_each_pod(ascend):
    assert ascend["metadata"]["labels"]["framework"] == "pytorch"
    roles = ascend["spec"]["replicaSpecs"]
    total = sum(role["replicas"] for role in roles.values())
    assert ascend["spec"]["runPolicy"]["schedulingPolicy"]["minAvailable"] == total, "all Pods or none"
    for role in roles.values():
        [container] = role["template"]["spec"]["containers"]
        assert container["name"] == "ascend"
        wanted = container["resources"]
        assert wanted["limits"] == wanted["requests"] and wanted["limits"]["huawei.com/Ascend910"] > 0
        assert [port["name"] for port in container["ports"]] == ["ascendjob-port"]
    # the anti-affinity's label is the one that the operator puts on the Pods: the job's name
    [term] = roles["Master"]["template"]["spec"]["affinity"]["podAntiAffinity"].popitem()[1]
    assert term["labelSelector"]["matchExpressions"][0]["values"] == [ascend["metadata"]["name"]]


def test_the_trainer_finds_the_step_and_the_container_that_it_fills_in(kubeflow):
    runtime, job = kubeflow["ClusterTrainingRuntime"], kubeflow["TrainJob"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    [node] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    [container] = node["template"]["spec"]["template"]["spec"]["containers"]
    assert node["name"] == container["name"] == "node"


@pytest.mark.parametrize("name", ["ascendjob", "trainjob"])
def test_every_mount_has_its_volume(name, ascend, kubeflow):
    for _, pod in pods(name, ascend, kubeflow):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes


OPERATOR = {"MASTER_ADDR": "10.96.0.7", "MASTER_PORT": "29500", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
TRAINER = {"PET_NNODES": "4", "PET_MASTER_ADDR": "m2det-node-0-0.m2det", "PET_MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "environment", "part"),
    [
        ("ascendjob", {**OPERATOR, "RANK": "1"}, "1 2 10.96.0.7:29500"),
        ("ascendjob", {**OPERATOR, "RANK": "0"}, "0 2 10.244.3.4:29500"),  # its own: a Service has one port
        ("trainjob", {**TRAINER, "PET_NODE_RANK": "3"}, "3 4 m2det-node-0-0.m2det:29500"),
        ("trainjob", {**TRAINER, "PET_NODE_RANK": "0"}, "0 4 m2det-node-0-0.m2det:29500"),
    ],
)
def test_each_pod_runs_its_part(name, environment, part, ascend, kubeflow, tmp_path):
    """By the very command of the file, with a stand-in for deploy/node.sh that prints its arguments."""
    for path, text in (("deploy/node.sh", 'echo "$@"'), ("bin/hostname", "echo 10.244.3.4")):
        script = tmp_path / path
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    environment = {**os.environ, **environment, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for role, pod in pods(name, ascend, kubeflow):
        container = pod["containers"][0]
        [line] = container["args"]
        assert set(re.findall(r"[A-Z_]{4,}", line)) <= INJECTED[name], role
        command = [*container["command"], re.sub(r"^source \S+ &&", "", line)]  # CANN's settings, which are not here
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == part, (role, done.stderr)


def pods(name: str, ascend: dict[str, Any], kubeflow: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return each role of a file with the specification of its Pod."""
    if name == "ascendjob":
        return [(role, spec["template"]["spec"]) for role, spec in ascend["spec"]["replicaSpecs"].items()]
    jobs = kubeflow["ClusterTrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    return [(job["name"], job["template"]["spec"]["template"]["spec"]) for job in jobs]
