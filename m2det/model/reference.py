"""Checkpoints of the original M2Det."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from m2det.errors import InputError


@dataclass(frozen=True)
class LoadReport:
    """Which keys a checkpoint and a model have in common; sorted."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        counts = (self.matched, self.missing, self.unexpected)
        return "keys: {} matched, {} missing, {} unexpected".format(*map(len, counts))


def load_reference_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Load a checkpoint with the original's keys, `module.` prefixes of DataParallel allowed; strict.

    Raises InputError naming the first missing, unexpected or wrongly shaped key; the model is then untouched.
    """
    given = {key.removeprefix("module."): value for key, value in state_dict.items()}
    own = model.state_dict()
    report = LoadReport(
        matched=sorted(own.keys() & given.keys()),
        missing=sorted(own.keys() - given.keys()),
        unexpected=sorted(given.keys() - own.keys()),
    )
    for key in report.matched:
        if own[key].shape != given[key].shape:
            raise InputError(
                f"layer {key}: the checkpoint has {tuple(given[key].shape)}, the model {tuple(own[key].shape)}; "
                "build the model with the checkpoint's size, classes and options"
            )
    for kind, keys in (("lacks", report.missing), ("has unknown", report.unexpected)):
        if keys:
            raise InputError(f"the checkpoint {kind} {len(keys)} of the model's keys, first {keys[0]}")
    model.load_state_dict(given)
    return report
