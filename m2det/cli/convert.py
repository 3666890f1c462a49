"""`m2det convert`: checkpoints of the original to model files, and back."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import Any

from m2det.cli.arguments import positive_int
from m2det.errors import InputError
from m2det.files.hashing import file_sha256
from m2det.text import print_log

log = logging.getLogger(__name__)

ORIGINAL_SIZES = (320, 512, 704, 800)


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
    import torch

    from m2det.files.untrusted import read_tensors
    from m2det.model import build_model, load_reference_state_dict
    from m2det.model.model_file import save_trained
    from m2det.model.original import compare_reference_state_dict, infer_config

    state = read_tensors(source)
    name, overrides, num_classes = infer_config(state, size or _size_from_name(source))
    log.info("%s, %s, %d classes", name, ", ".join(f"{k} {v}" for k, v in overrides.items()), num_classes)
    with torch.device("meta"):
        meta_model = build_model(name, num_classes, **overrides)
    compare_reference_state_dict(meta_model, state)  # names and shapes, before the network takes memory
    model = build_model(name, num_classes, **overrides)
    report = load_reference_state_dict(model, state)
    log.info("%s", report)
    classes, category_ids = _classes(annotations, num_classes)
    card = {"model": name, "overrides": overrides, "classes": classes, "category_ids": category_ids}
    save_trained(target, model, card | {"hashes": {"original": file_sha256(source)}})


def _to_original(source: Path, target: Path) -> None:
    from m2det.files.torch_file import save_plain
    from m2det.model.model_file import load_trained

    model, _ = load_trained(source)
    save_plain(target, model.state_dict())
    log.info("%d keys, shared layers under each of their names", len(model.state_dict()))


def _size_from_name(source: Path) -> int:
    if sizes := [int(n) for n in re.findall(r"\d+", source.stem) if int(n) in ORIGINAL_SIZES]:
        return sizes[0]
    log.warning("size: 512, assumed, since the file's name has none of the original's sizes; else give --size")
    return 512


def _classes(annotations: Path | None, count: int) -> tuple[list[str], list[int]]:
    """Return the classes' names and category ids."""
    if annotations is None:
        log.warning("classes: numbered, since their names are not in the file; give --annotations to have them")
        return [f"class {i}" for i in range(1, count + 1)], list(range(1, count + 1))
    from m2det.data.sources.coco_json import read_categories

    categories = read_categories(annotations)
    if len(categories) != count:
        raise InputError(f"{annotations} has {len(categories)} categories, the checkpoint {count} classes")
    return [category.name for category in categories], [category.id for category in categories]
