"""Commands on a clone's results: its own `tasks`, which know dvc.yaml and dvc.lock, carry them out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from m2det.errors import InputError


def run_in_project(module: str, *arguments: str) -> int:
    """Run `python -m MODULE ARGUMENTS` of the project in the working directory, and return its exit code.

    A process of its own, because an installed m2det has no `tasks`, and a clone's code is what its results depend on.

    Raises:
        InputError: The working directory is no clone of the project.
    """
    if not (Path("dvc.yaml").is_file() and Path(*module.split(".")).with_suffix(".py").is_file()):
        raise InputError(f"{Path.cwd()} is no clone of m2det (with dvc.yaml and tasks/); change to the top of one")
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
