"""Prefect plugin: `prefect deployment run digits` as well as `prefect deployment run m2det/digits`.

Prefect's command line wants FLOW/DEPLOYMENT, the stock form, which works everywhere. Prefect's plugin hook
(docs.prefect.io, "Plugins"; entry point group `prefect.plugins`, enabled by [tool.prefect.plugins] in this
folder's pyproject.toml) calls `setup_environment` before it reads its arguments: that function puts the flow's name
before a bare name of a deployment in ./prefect.yaml. Nothing else is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

from prefect.plugins import register_hook

FLOW = "m2det"
BEFORE_A_NAME = ("--name", "--watch", "--no-watch", "--prompt", "--no-prompt")  # other options take a value


def deployments(path: Path = Path("prefect.yaml")) -> list[dict[str, Any]]:
    """Return the entries of prefect.yaml that deploy the flow m2det; none if the file does not exist."""
    from ruamel.yaml import YAML

    entries = YAML(typ="safe").load(path)["deployments"] if path.exists() else []
    return [entry for entry in entries if entry["entrypoint"].endswith(f":{FLOW}")]


def is_command(argv: list[str]) -> bool:
    """Return whether argv is `prefect [...] deployment run|inspect ...`."""
    return any(a in ("deployment", "deployments") and b in ("run", "inspect") for a, b in pairwise(argv))


def expand(argv: list[str], names: Collection[str]) -> list[str]:
    """Return argv with m2det/ before its first word that is one of `names`."""
    for i, word in enumerate(argv):
        before = argv[i - 1]
        option = before.startswith("-") and "=" not in before and before not in BEFORE_A_NAME
        if word in names and not option:
            return [*argv[:i], f"{FLOW}/{word}", *argv[i + 1 :]]
    return argv


@register_hook
def setup_environment(*, ctx: Any) -> None:  # noqa: ARG001
    if Path(sys.argv[0]).name in ("prefect", "-m") and is_command(sys.argv):
        sys.argv[:] = expand(sys.argv, [entry["name"] for entry in deployments()])
