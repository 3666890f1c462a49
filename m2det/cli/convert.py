"""`m2det convert`: checkpoints of the original to model files, and back."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from m2det.cli.arguments import positive_int
from m2det.errors import InputError
from m2det.text import print_log

log = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("convert", help="convert the original's checkpoints to model files, or back")
    parser.add_argument("source", type=Path, metavar="IN", help="ORIGINAL.pth, or a model.safetensors")
    parser.add_argument("target", type=Path, metavar="OUT", help="OUT.safetensors, or OUT.pth")
    parser.add_argument("--size", type=positive_int, help="side of the input (default: from the file's name, else 512)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO annotations with the classes' names")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print_log()
    convert(arguments.source, arguments.target, arguments.size, arguments.annotations)


def convert(source: Path, target: Path, size: int | None, annotations: Path | None) -> None:
    """Convert a .pth of the original to OUT.safetensors, or a model file to OUT.pth with the original's keys.

    Args:
        source: The file to convert.
        target: The file to write.
        size: Side of the network's input in pixels, which the weights do not tell; None takes it from the source's
            name, else 512 with a warning.
        annotations: A COCO file whose categories are the classes; None numbers the classes.

    Raises:
        InputError: The suffixes are another pair, or the source is not what its suffix says.
    """
    suffixes = (source.suffix, target.suffix)
    if suffixes == (".safetensors", ".pth"):
        _to_original(source, target)
    elif target.suffix == ".safetensors" and source.suffix != ".safetensors":
        _from_original(source, target, size, annotations)
    else:
        raise InputError(f"from {source.name} to {target.name}? give ORIGINAL.pth OUT.safetensors or the reverse")


def _from_original(source: Path, target: Path, size: int | None, annotations: Path | None) -> None:
    from m2det.detect.model_loading import load_original
    from m2det.model.model_file import save_trained

    save_trained(target, *load_original(source, size, annotations))


def _to_original(source: Path, target: Path) -> None:
    from m2det.files.torch_file import save_plain
    from m2det.model.model_file import load_trained

    model, _ = load_trained(source)
    save_plain(target, model.state_dict())
    log.info("%d keys, shared layers under each of their names", len(model.state_dict()))
