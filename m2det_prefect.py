"""Prefect plugin: `prefect deployment run digits` as well as `prefect deployment run m2det/digits`.

Prefect's command line wants FLOW/DEPLOYMENT, the stock form, which works everywhere. Prefect's plugin hook
(docs.prefect.io, "Plugins"; entry point group `prefect.plugins`, enabled by [tool.prefect.plugins] in this
folder's pyproject.toml) calls `setup_environment` before it reads its arguments: that function puts the flow's name
before a bare name of a deployment in ./prefect.yaml. Nothing else is changed.
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


@register_hook
def setup_environment(*, ctx: Any) -> None:  # noqa: ARG001
    if Path(sys.argv[0]).name in ("prefect", "-m") and is_command(sys.argv):
        sys.argv[:] = expand(sys.argv, full_names(deployments()))
