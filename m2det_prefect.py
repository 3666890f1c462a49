"""Prefect plugin: `prefect deployment run digits` as well as `prefect deployment run m2det/digits`.

Prefect's command line wants FLOW/DEPLOYMENT, the stock form, which works everywhere. Prefect's plugin hook
(docs.prefect.io, "Plugins"; entry point group `prefect.plugins`, enabled by [tool.prefect.plugins] in this
folder's pyproject.toml) calls `setup_environment` before it reads its arguments: that function puts the flow's name
before a bare name of a deployment in ./prefect.yaml. Before a run of such a deployment it also says in one sentence
that there is no server or no worker; Prefect would print a traceback or let the run wait. Nothing else is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from prefect.plugins import register_hook

BEFORE_A_NAME = ("--name", "--watch", "--no-watch", "--prompt", "--no-prompt")  # other options take a value


def deployments(path: Path = Path("prefect.yaml")) -> list[dict[str, Any]]:
    """Return the entries of prefect.yaml; none if the file does not exist."""
    from ruamel.yaml import YAML

    entries: list[dict[str, Any]] = YAML(typ="safe").load(path)["deployments"] if path.exists() else []
    return entries


def full_names(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return FLOW/DEPLOYMENT by deployment; a flow here has the name of its function, as in flows/demo.py:demo."""
    return {entry["name"]: f"{entry['entrypoint'].rpartition(':')[2]}/{entry['name']}" for entry in entries}


def is_command(argv: list[str]) -> bool:
    """Return whether argv is `prefect [...] deployment run|inspect ...`."""
    return any(a in ("deployment", "deployments") and b in ("run", "inspect") for a, b in pairwise(argv))


def expand(argv: list[str], names: Mapping[str, str]) -> list[str]:
    """Return argv with the full name instead of its first word that is the bare name of a deployment."""
    for i, word in enumerate(argv):
        before = argv[i - 1]
        option = before.startswith("-") and "=" not in before and before not in BEFORE_A_NAME
        if word in names and not option:
            return [*argv[:i], names[word], *argv[i + 1 :]]
    return argv


def check_server(pool: str) -> None:
    """End the process with one sentence without a server; say on stderr if no worker is there to take a run."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        sys.exit("error: no Prefect server is set here; start one by `make prefect` in another terminal")
    with get_client(sync_client=True) as client:
        if client.api_healthcheck() is not None:
            sys.exit(f"error: the Prefect server {url} does not answer; start it by `make prefect` in another terminal")
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            sys.exit(f"error: the Prefect server {url} has no work pool {pool}; docs/pipeline.md says how to create it")
        if not any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool)):
            print(f"no worker of the work pool {pool} is there, so runs wait until one is started", file=sys.stderr)


@register_hook
def setup_environment(*, ctx: Any) -> None:  # noqa: ARG001
    if Path(sys.argv[0]).name not in ("prefect", "-m") or not is_command(sys.argv):
        return
    entries = deployments()
    names = full_names(entries)
    sys.argv[:] = expand(sys.argv, names)
    pools = {names[entry["name"]]: entry["work_pool"]["name"] for entry in entries}
    if "run" in sys.argv:
        for pool in {pools[word] for word in sys.argv if word in pools}:
            check_server(pool)
