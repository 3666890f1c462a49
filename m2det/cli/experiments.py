"""`m2det experiments`: print DVC's experiments as a small table."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from m2det.errors import InputError

TABLE = "flows.experiments"  # of the project in this folder: the library does not know DVC


def add_parser(subparsers: Any) -> None:
    experiments = subparsers.add_parser("experiments", help="list DVC's experiments: state, what differs, AP, img/s")
    experiments.add_argument("--all", action="store_true", help="those of all commits, not only of the last one")
    experiments.set_defaults(run=_experiments)


def _experiments(arguments: argparse.Namespace) -> None:
    if not Path("dvc.yaml").exists():
        raise InputError("dvc.yaml: no such file; run `m2det experiments` in the project's folder")
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", TABLE, *["--all"] * arguments.all], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
