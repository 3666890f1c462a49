"""`m2det join`: take part, as a further node, in what the stage of a first node computes."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from m2det.cli.arguments import positive_int
from m2det.errors import InputError
from m2det.text import printable


def add_parser(subparsers: Any) -> None:
    join = subparsers.add_parser(
        "join",
        help="compute on this machine what a stage of another one shares, by its run.nodes and run.rendezvous",
        description="Take part in a stage that runs on another machine with run.nodes and run.rendezvous. That machine "
        "sends parameters and weights; m2det's code, torch and the packed cache have to be the same. Only "
        "temporary files are written here.",
    )
    join.add_argument("address", metavar="HOST:PORT", help="of the first node: its run.rendezvous")
    join.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        default=Path("data/cache"),
        help="this machine's copy of the packed cache (default: %(default)s)",
    )
    join.add_argument(
        "--stay",
        action="store_true",
        help="go on with the stages that follow, and after failures, until none comes for --timeout seconds",
    )
    join.add_argument(
        "--timeout",
        metavar="S",
        type=positive_int,
        default=600,
        help="seconds to wait for the first node (default: %(default)s)",
    )
    join.set_defaults(run=_join)


def _join(arguments: argparse.Namespace) -> int:
    import numpy as np

    from m2det.data.packed.reader import cache_digest, read_manifest
    from m2det.distributed.children import run_child, stage_process
    from m2det.distributed.join import FirstNodeAbsentError, OwnCache, RefusedError, join
    from m2det.ops import nms

    nms(np.zeros((0, 5), np.float32), 0.5)  # raises InputError where it is not compiled, which an evaluation would do
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    stage_process()
    status, took_part = 0, False
    while True:
        read_manifest(arguments.cache)
        cache = OwnCache(arguments.cache, cache_digest(arguments.cache))
        try:
            join(arguments.address, cache, arguments.timeout, run_child)
            status = 0
        except FirstNodeAbsentError as absent:
            if not took_part:
                raise
            print(f"{printable(str(absent))}; this node has done its part")
            return status
        except RefusedError:
            raise
        except InputError as error:
            if not arguments.stay:
                raise
            print(f"error: {printable(str(error))}", file=sys.stderr)
            status = 1
        if not arguments.stay:
            return status
        took_part = True
