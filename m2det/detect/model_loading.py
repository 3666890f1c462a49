"""Load a trained network from each kind of file that has one."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from m2det.errors import InputError
from m2det.files.hashing import file_sha256
from m2det.model import M2Det

log = logging.getLogger(__name__)

ORIGINAL_SIZES = (320, 512, 704, 800)


def load_model(path: Path) -> tuple[M2Det, dict[str, Any]]:
    """Return the network of a model file, of a release's folder, or of the original's checkpoint, and its card.

    Raises:
        InputError: the file is missing, damaged or no model.
    """
    from m2det.model.model_file import load_trained

    if path.suffix in (".pth", ".pt"):
        if not path.is_file():
            raise InputError(f"{path}: no such file; name a model file or a checkpoint of the original")
        return load_original(path, None, None)
    return load_trained(path)


def load_original(path: Path, size: int | None, annotations: Path | None) -> tuple[M2Det, dict[str, Any]]:
    """Return the network of a checkpoint of the original, in eval mode on the CPU, and a card.

    Args:
        path: the .pth.
        size: side of the network's input in pixels, which the weights do not tell; None takes it from the file's name,
            else 512 with a warning.
        annotations: a COCO file whose categories are the classes; None numbers them, with a warning.

    Raises:
        InputError: the file is no checkpoint of the original.
    """
    import torch

    from m2det.files.untrusted import read_tensors
    from m2det.model import build_model, load_reference_state_dict
    from m2det.model.original import compare_reference_state_dict, infer_config

    state = read_tensors(path)
    name, overrides, num_classes = infer_config(state, size or _size_from_name(path))
    log.info("%s, %s, %d classes", name, ", ".join(f"{k} {v}" for k, v in overrides.items()), num_classes)
    with torch.device("meta"):
        meta_model = build_model(name, num_classes, **overrides)
    compare_reference_state_dict(meta_model, state)  # names and shapes, before the network takes memory
    model = build_model(name, num_classes, **overrides)
    log.info("%s", load_reference_state_dict(model, state))
    classes, category_ids = _classes(annotations, num_classes)
    card = {"model": name, "overrides": overrides, "classes": classes, "category_ids": category_ids}
    return model.eval(), card | {"hashes": {"original": file_sha256(path)}}


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
