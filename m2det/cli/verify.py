"""`m2det verify`: whether a model file, dvc.lock, the working copy, the packed cache and the metrics meet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from m2det.cli.project import run_in_project
from m2det.errors import InputError
from m2det.text import printable

EPILOG = """Each difference is a line with what to do. Exit code: 0 all meet; 1 only code differs: committed later, or
edited; 2 anything else."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "verify", help="compare a model with dvc.lock, the working copy and the metrics", epilog=EPILOG
    )
    parser.add_argument("weights", type=Path, metavar="FILE|DIR", help="a model.safetensors, or a folder of a release")
    parser.add_argument("--deep", action="store_true", help="also evaluate again, and compare the numbers")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        return run_in_project("tasks.verify", *(["--deep"] if arguments.deep else []), "--", str(arguments.weights))
    except InputError as error:  # whose usual exit code, 1, says here that only code differs
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
