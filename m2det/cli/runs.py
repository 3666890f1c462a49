"""`m2det runs`: list the trainings that can be resumed, delete one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from m2det.text import printable

ROOT = Path("models/unfinished")


def add_parser(subparsers: Any) -> None:
    runs = subparsers.add_parser("runs", help="list the trainings that can be resumed, or delete one")
    runs.set_defaults(run=_list)
    actions = runs.add_subparsers(title="actions", metavar="ACTION")
    actions.add_parser("list", help="print each run's name, settings, step and size (the default)")
    delete = actions.add_parser("delete", help="delete a run's directory with its checkpoints")
    delete.add_argument("name", metavar="NAME", help="a name that `m2det runs list` prints")
    delete.set_defaults(run=_delete)


def _list(_: argparse.Namespace) -> None:
    from m2det.train.run_dir import unfinished_runs

    for run in unfinished_runs(ROOT):
        settings = f"{run.shape['model.name']}, {run.shape['epochs']} epochs, seed {run.shape['seed']}"
        print(f"{printable(run.folder.name)}  {printable(settings)}: step {run.step}, {run.size / 1e6:.1f} MB")


def _delete(arguments: argparse.Namespace) -> None:
    from m2det.train.run_dir import delete

    delete(ROOT, arguments.name)
    _list(arguments)
