"""`m2det convert`: checkpoints of the original to model files, and back."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2det.cli.arguments import positive_int
from m2det.errors import InputError
from m2det.text import print_log

if TYPE_CHECKING:
    from torch import Tensor

    from m2det.model import M2DetConfig

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
    state = model.state_dict()
    if lost := _lost_in_original(model.config, state):
        raise InputError(
            f"{source} cannot become a .pth of the original, since it would not come back as this network: {lost}; use "
            "the model file itself, or `m2det export`"
        )
    save_plain(target, state)
    log.info("%d keys, shared layers under each of their names", len(state))


def _lost_in_original(config: M2DetConfig, state: Mapping[str, Tensor]) -> str:
    """Return what of a network its weights by the original's keys do not tell; empty for nothing."""
    from dataclasses import asdict

    from m2det.model import get_config
    from m2det.model.original import infer_config

    try:
        name, overrides, _ = infer_config(state, config.size)
    except InputError as error:
        return f"the original has no {config.name} ({error})"
    inferred, wanted = asdict(get_config(name, **overrides)), asdict(config)
    differing = [key for key in wanted if key not in ("name", "bn_momentum") and wanted[key] != inferred[key]]
    if wanted["sizes"] != inferred["sizes"] and get_config(name, **overrides).prior_sizes == config.prior_sizes:
        differing.remove("sizes")
    return ", ".join(f"its {key} {wanted[key]}" for key in differing)
