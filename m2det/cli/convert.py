"""Checkpoints of the original to our model files, and back."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2det.errors import InputError
from m2det.files.torch_file import save_plain
from m2det.files.untrusted import read_tensors
from m2det.model import build_model, load_reference_state_dict
from m2det.model.config import ANCHORS_PER_CELL, BACKBONES, M2DetConfig, ResNetConfig
from m2det.model.model_file import load_trained, save_trained
from m2det.model.original import compare_reference_state_dict

log = logging.getLogger(__name__)

ORIGINAL_SIZES = (320, 512, 704, 800)


def convert(source: Path, target: Path, size: int | None, annotations: Path | None) -> None:
    """A .pth of the original to OUT.safetensors, or one of our models to OUT.pth with the original's keys.

    size: side of the input, which no weight tells; None reads it from the source's name, else takes 512, the seed's.
    annotations: a COCO file whose categories are the classes; None numbers them.
    Raises InputError for another pair of suffixes, and for a source that is not what it should be.
    """
    suffixes = (source.suffix, target.suffix)
    if suffixes == (".safetensors", ".pth"):
        _to_original(source, target)
    elif target.suffix == ".safetensors" and source.suffix != ".safetensors":
        _from_original(source, target, size, annotations)
    else:
        raise InputError(f"from {source.name} to {target.name}? give ORIGINAL.pth OUT.safetensors or the reverse")


def _from_original(source: Path, target: Path, size: int | None, annotations: Path | None) -> None:
    state = read_tensors(source)
    name, overrides, num_classes = recognise(state, size or _size_of(source))
    log.info("%s, %s, %d classes", name, ", ".join(f"{k} {v}" for k, v in overrides.items()), num_classes)
    with torch.device("meta"):
        twin = build_model(name, num_classes, **overrides)
    compare_reference_state_dict(twin, state)  # names and shapes, before the network takes memory
    model = build_model(name, num_classes, **overrides)
    report = load_reference_state_dict(model, state)
    log.info("%s", report)
    classes, category_ids = _classes(annotations, num_classes)
    card = {
        "model": name,
        "overrides": overrides,
        "classes": classes,
        "category_ids": category_ids,
        "hashes": {"original": hashlib.sha256(source.read_bytes()).hexdigest()},
    }
    save_trained(target, model, card)


def _to_original(source: Path, target: Path) -> None:
    model, _ = load_trained(source)
    save_plain(target, model.state_dict())
    log.info("%d keys, shared layers under each of their names", len(model.state_dict()))


def recognise(state: dict[str, Tensor], size: int) -> tuple[str, dict[str, Any], int]:
    """The configuration that these weights are of: its name, overrides of its defaults, and how many classes.

    Raises InputError where the keys are not those of an M2Det with a known backbone.
    """
    try:
        reduced, raised, conf = (state[f"{key}.weight"] for key in ("reduce.conv", "up_reduce.conv", "conf.0"))
        top = state["unet1.toplayer.0.conv.weight"]
        shared = torch.equal(state["leach.0.conv.weight"], state["leach.1.conv.weight"])
        backbone = _backbone(state)
    except KeyError as error:
        raise InputError(f"this is no checkpoint of M2Det: it has no {error}") from error
    if not all(tensor.dim() for tensor in (reduced, raised, conf, top)):
        raise InputError("this is no checkpoint of M2Det: a layer's weights are a single number")
    config = M2DetConfig(name="", size=512, backbone=BACKBONES[backbone])
    found: dict[str, Any] = {
        "planes": len(top),
        "levels": sum(bool(re.fullmatch(r"unet\d+\.toplayer\.0\.conv\.weight", key)) for key in state),
        "scales": sum(bool(re.fullmatch(r"loc\.\d+\.weight", key)) for key in state),
        "fused": (len(reduced), len(raised)),
        "sfam": "sfam_module.fc1.0.weight" in state,
        "smooth": "unet1.smooth.0.conv.weight" in state,
        "shared": shared,
    }
    overrides = {key: value for key, value in found.items() if key == "sfam" or value != getattr(config, key)}
    return f"m2det{size}-{backbone}", overrides, len(conf) // ANCHORS_PER_CELL - 1


def _backbone(state: dict[str, Tensor]) -> str:
    if "base.0.weight" in state:
        return "vgg16"
    layers = tuple(
        sum(bool(re.fullmatch(rf"base\.layer{i}\.\d+\.conv1\.weight", key)) for key in state) for i in (1, 2, 3, 4)
    )
    wanted = ResNetConfig(layers=layers, bottleneck="base.layer1.0.conv3.weight" in state)
    for name, config in BACKBONES.items():
        if config == wanted:
            return name
    raise KeyError("backbone that is known")


def _size_of(source: Path) -> int:
    for number in re.findall(r"\d+", source.stem):
        if int(number) in ORIGINAL_SIZES:
            return int(number)
    log.warning("size: 512, assumed, since the file's name does not say it; if it is another, give --size")
    return 512


def _classes(annotations: Path | None, count: int) -> tuple[list[str], list[int]]:
    if annotations is None:
        log.warning("classes: numbered, since their names are not in the file; give --annotations to have them")
        return [f"class {i}" for i in range(1, count + 1)], list(range(1, count + 1))
    from m2det.data.sources.coco_json import read_categories

    categories = read_categories(annotations)
    if len(categories) != count:
        raise InputError(f"{annotations} has {len(categories)} categories, the checkpoint {count} classes")
    return [category.name for category in categories], [category.id for category in categories]
