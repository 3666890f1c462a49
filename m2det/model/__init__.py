"""The network: `build_model`, `prior_boxes`, and the original's checkpoints."""

from m2det.model.config import CONFIGS, M2DetConfig, VGGConfig, get_config
from m2det.model.m2det import M2Det, build_model
from m2det.model.priors import prior_boxes
from m2det.model.reference import LoadReport, load_reference_state_dict
from m2det.model.vgg import VGG, build_backbone

__all__ = [
    "CONFIGS",
    "LoadReport",
    "M2Det",
    "M2DetConfig",
    "VGG",
    "VGGConfig",
    "build_backbone",
    "build_model",
    "get_config",
    "load_reference_state_dict",
    "prior_boxes",
]
