"""`m2det release`: one folder with a model, its metrics, settings, a picture and a model card, to hand on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from m2det.cli.project import run_in_project


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("release", help="make one folder of the model, its metrics and a model card")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to make")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return run_in_project("tasks.release", "--", str(arguments.folder))
