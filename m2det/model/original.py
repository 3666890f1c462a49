"""Checkpoints of the original M2Det."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from m2det.errors import InputError
from m2det.model.m2det import first_names


@dataclass(frozen=True)
class LoadReport:
    """Which keys a checkpoint and a model have in common; sorted."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        counts = (self.matched, self.missing, self.unexpected)
        return "keys: {} matched, {} missing, {} unexpected".format(*map(len, counts))


def load_reference_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = True) -> LoadReport:
    """Load a checkpoint with the original's keys, `module.` prefixes of DataParallel allowed.

    A shared layer has several keys; one is enough. Not strict: what fits in name and shape is loaded, the rest
    is reported. Strict: raises InputError naming the first missing, unexpected or wrongly shaped key, or keys of
    one shared layer that differ; the model is then untouched.
    """
    report, fits = compare_reference_state_dict(model, state_dict, strict)
    model.load_state_dict(fits, strict=False)
    return report


def compare_reference_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = True
) -> tuple[LoadReport, dict[str, Tensor]]:
    """What load_reference_state_dict would load, of a model that may be on the device meta; it raises the same."""
    given = {key.removeprefix("module."): value for key, value in state_dict.items()}
    own, first = model.state_dict(), first_names(model)
    fits = {key: given[key] for key in own if key in given and given[key].shape == own[key].shape}
    loaded = {first[key] for key in fits}
    report = LoadReport(
        matched=sorted(key for key in own if first[key] in loaded),
        missing=sorted(key for key in own if first[key] not in loaded),
        unexpected=sorted(given.keys() - own.keys()),
    )
    if strict:
        for key in (key for key in own if key in given and key not in fits):
            raise InputError(
                f"layer {key}: the checkpoint has {tuple(given[key].shape)}, the model {tuple(own[key].shape)}; "
                "build the model with the checkpoint's size, classes and options"
            )
        for kind, keys in (("lacks", report.missing), ("has unknown", report.unexpected)):
            if keys:
                raise InputError(f"the checkpoint {kind} {len(keys)} of the model's keys, first {keys[0]}")
        for key, value in fits.items():
            if first[key] != key and not torch.equal(value, fits.get(first[key], value)):
                raise InputError(f"{first[key]} and {key} differ: build the model with shared=False")
    return report, fits
