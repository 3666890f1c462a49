"""`python -m flows.serve`: run the deployments of prefect.yaml here, one at a time, without a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, serve
from prefect.deployments.runner import RunnerDeployment

from m2det_prefect import deployments


def served(entry: dict[str, Any]) -> RunnerDeployment:
    """Return the deployment of an entry of prefect.yaml, with its runs in this folder."""
    # a flow with a source also replaces the folder of a deployment that `prefect deploy` made
    flow = Flow.from_source(source=str(Path.cwd()), entrypoint=entry["entrypoint"])
    assert isinstance(flow, Flow)  # a coroutine only in an event loop
    made = flow.to_deployment(entry["name"], description=entry.get("description"), parameters=entry.get("parameters"))
    assert isinstance(made, RunnerDeployment)
    return made


if __name__ == "__main__":
    serve(*map(served, deployments()), limit=1)
