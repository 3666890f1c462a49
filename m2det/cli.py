"""The command line `m2det`. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from m2det import __version__
from m2det.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; wrong input is one sentence on stderr and 1."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("m2det", description="M2Det: detect objects with a trained model.")
    parser.add_argument("--version", action="version", version=f"m2det {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    detect = commands.add_parser("detect", help="draw boxes on pictures, and write COCO results")
    detect.add_argument("images", nargs="+", type=Path, metavar="IMAGE|DIR", help="pictures, or folders of them")
    detect.add_argument("--weights", required=True, type=Path, metavar="FILE", help="a model.safetensors")
    detect.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for what is written")
    detect.add_argument("--json", action="store_true", help="write DIR/detections.json too, in COCO's results format")
    detect.add_argument("--score", type=float, default=0.5, help="least score that is drawn (default %(default)s)")
    detect.add_argument("--device", choices=("auto", "cpu", "cuda", "npu"), default="auto")
    detect.set_defaults(run=_detect)
    return parser


def _detect(arguments: argparse.Namespace) -> None:
    from m2det.detect_files import detect_files

    detect_files(arguments.images, arguments.weights, arguments.out, arguments.score, arguments.json, arguments.device)


if __name__ == "__main__":
    sys.exit(main())
