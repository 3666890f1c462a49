"""`m2det runs`: list the trainings that can be resumed, delete one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from m2det.text import printable

ROOT = Path("models/unfinished")


def add_parser(subparsers: Any) -> None:
    runs = subparsers.add_parser("runs", help="list the trainings that can be resumed, or delete one")
    runs.set_defaults(run=_list)
    actions = runs.add_subparsers(title="actions", metavar="ACTION")
    actions.add_parser("list", help="print each run's name, what tells it from the others, step and size (the default)")
    delete = actions.add_parser("delete", help="delete a run's directory with its checkpoints")
    delete.add_argument("name", metavar="NAME", help="a name that `m2det runs list` prints")
    delete.set_defaults(run=_delete)


def _list(_: argparse.Namespace) -> None:
    from m2det.train.run_dir import keys_that_differ, unfinished_runs

    runs = unfinished_runs(ROOT)
    keys = keys_that_differ(runs)
    for run in runs:
        settings = [run.shape["model.name"], f"{run.shape['epochs']} epochs", f"seed {run.shape['seed']}"]
        settings += [f"{key} {_value(key, run.shape.get(key))}" for key in keys]
        described = printable(", ".join(map(str, settings)))
        print(f"{printable(run.folder.name)}  {described}: step {run.step}, {run.size / 1e6:.1f} MB")


def _value(key: str, value: Any) -> str:
    return str(value)[:6] if key.startswith("hashes.") else json.dumps(value)


def _delete(arguments: argparse.Namespace) -> None:
    from m2det.train.run_dir import delete

    delete(ROOT, arguments.name)
    _list(arguments)
