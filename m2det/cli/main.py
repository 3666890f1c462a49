"""The command line `m2det`: one module per command, each of which imports what it needs only when it runs."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from m2det import __version__
from m2det.cli import (
    bench,
    convert,
    data,
    detect,
    doctor,
    experiments,
    export,
    info,
    join,
    recipes,
    release,
    runs,
    verify,
)
from m2det.cli.arguments import Parser
from m2det.distributed.threads import spin_briefly
from m2det.errors import InputError, explain_missing_cann
from m2det.text import escape_unencodable_output, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; None takes them from sys.argv.

    Returns:
        The exit code: the command's own, 0 for most; 1 for wrong input (one sentence on stderr), 130 for Ctrl-C.
    """
    spin_briefly()
    escape_unencodable_output()
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        with explain_missing_cann():
            return arguments.run(arguments) or 0
    except (InputError, OSError) as error:  # an OSError names the file and the reason
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = Parser("m2det", description="M2Det: detect objects with a trained model.")
    parser.add_argument("--version", action="version", version=f"m2det {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (
        *(detect, data, runs, join, experiments, recipes, info, verify, release),
        *(convert, export, bench, doctor),
    ):
        command.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
