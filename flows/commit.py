"""The commit of this project's code, which Prefect shows as the version of flows, deployments and runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def describe_commit() -> str | None:
    """Return git's description of the project's commit, `-dirty` after edits; None outside of a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
