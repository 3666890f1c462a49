"""The network: `build_model`, `prior_boxes`, and checkpoints of the original."""

from m2det.model.config import M2DetConfig, get_config
from m2det.model.m2det import M2Det, build_backbone, build_model, first_names
from m2det.model.original import LoadReport, load_reference_state_dict
from m2det.model.priors import prior_boxes

__all__ = [
    "LoadReport",
    "M2Det",
    "M2DetConfig",
    "build_backbone",
    "build_model",
    "first_names",
    "get_config",
    "load_reference_state_dict",
    "prior_boxes",
]
