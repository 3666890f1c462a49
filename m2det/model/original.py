"""Checkpoints of the original M2Det: load them, and infer their configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m2det.errors import InputError
from m2det.model.config import ANCHORS_PER_CELL, BACKBONES, M2DetConfig, ResNetConfig
from m2det.model.m2det import first_names


@dataclass(frozen=True)
class LoadReport:
    """Keys of a checkpoint compared with a model's, each list sorted.

    Attributes:
        matched: Keys of the model that are loaded.
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        counts = (self.matched, self.missing, self.unexpected)
        return "keys: {} matched, {} missing, {} unexpected".format(*map(len, counts))


def load_reference_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = True) -> LoadReport:
    """Load a checkpoint with the original's keys into a model.

    Args:
        model: The model to load into.
        state_dict: Tensors by key; `module.` prefixes of DataParallel are removed. Of a shared layer's several keys one
            is enough.
        strict: Whether every key must match. Otherwise tensors that match in name and shape are loaded.

    Returns:
        The matched, missing and unexpected keys.

    Raises:
        InputError: With strict, a key is missing, unexpected or has another shape, or the keys of one shared layer
            differ; the model is unchanged.
    """
    report, matching = compare_reference_state_dict(model, state_dict, strict)
    model.load_state_dict(matching, strict=False)
    return report


def compare_reference_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = True
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Compare as `load_reference_state_dict` does, without loading; the model may be on the device meta.

    Returns:
        (report, the tensors to load by key).

    Raises:
        InputError: As load_reference_state_dict.
    """
    checkpoint = {key.removeprefix("module."): value for key, value in state_dict.items()}
    own, first = model.state_dict(), first_names(model)
    matching = {key: checkpoint[key] for key in own if key in checkpoint and checkpoint[key].shape == own[key].shape}
    loaded = {first[key] for key in matching}
    report = LoadReport(
        matched=sorted(key for key in own if first[key] in loaded),
        missing=sorted(key for key in own if first[key] not in loaded),
        unexpected=sorted(checkpoint.keys() - own.keys()),
    )
    if strict:
        for key in (key for key in own if key in checkpoint and key not in matching):
            raise InputError(
                f"layer {key}: the checkpoint has {tuple(checkpoint[key].shape)}, the model {tuple(own[key].shape)}; "
                "build the model with the checkpoint's size, classes and options"
            )
        for kind, keys in (("lacks", report.missing), ("has unknown", report.unexpected)):
            if keys:
                raise InputError(f"the checkpoint {kind} {len(keys)} of the model's keys, first {keys[0]}")
        for key, value in matching.items():
            if first[key] != key and not torch.equal(value, matching.get(first[key], value)):
                raise InputError(f"{first[key]} and {key} differ: build the model with shared=False")
    return report, matching


def infer_config(state: Mapping[str, Tensor], size: int) -> tuple[str, dict[str, Any], int]:
    """Infer the configuration of a checkpoint from its keys and shapes.

    Args:
        state: The checkpoint's tensors by the original's keys.
        size: Side of the network's input in pixels, which the weights do not tell.

    Returns:
        (name, overrides of its defaults, number of foreground classes), for build_model.

    Raises:
        InputError: The keys are not those of an M2Det with a known backbone.
    """
    try:
        reduced, raised, conf = (state[f"{key}.weight"] for key in ("reduce.conv", "up_reduce.conv", "conf.0"))
        top = state["unet1.toplayer.0.conv.weight"]
        shared = torch.equal(state["leach.0.conv.weight"], state["leach.1.conv.weight"])
        backbone = _backbone_name(state)
    except KeyError as error:
        raise InputError(f"this is no checkpoint of M2Det: it has no {error}") from error
    if not all(tensor.dim() for tensor in (reduced, raised, conf, top)):
        raise InputError("this is no checkpoint of M2Det: a layer's weights are a single number")
    config = M2DetConfig(name="", size=512, backbone=BACKBONES[backbone])
    values: dict[str, Any] = {
        "planes": len(top),
        "levels": sum(bool(re.fullmatch(r"unet\d+\.toplayer\.0\.conv\.weight", key)) for key in state),
        "scales": sum(bool(re.fullmatch(r"loc\.\d+\.weight", key)) for key in state),
        "fused": (len(reduced), len(raised)),
        "sfam": "sfam_module.fc1.0.weight" in state,
        "smooth": "unet1.smooth.0.conv.weight" in state,
        "shared": shared,
    }
    overrides = {key: value for key, value in values.items() if key == "sfam" or value != getattr(config, key)}
    return f"m2det{size}-{backbone}", overrides, len(conf) // ANCHORS_PER_CELL - 1


def _backbone_name(state: Mapping[str, Tensor]) -> str:
    if "base.0.weight" in state:
        return "vgg16"
    layers = tuple(
        sum(bool(re.fullmatch(rf"base\.layer{i}\.\d+\.conv1\.weight", key)) for key in state) for i in (1, 2, 3, 4)
    )
    resnet = ResNetConfig(layers=layers, bottleneck="base.layer1.0.conv3.weight" in state)
    for name, config in BACKBONES.items():
        if config == resnet:
            return name
    raise KeyError("known backbone")
