"""M2Det: a single-shot detector on a multi-level feature pyramid (Zhao et al., AAAI 2019).

    detector = m2det.load("models/m2det.safetensors")
    found = detector("photo.jpg")

Importing the package costs nothing; the parts import what they need:
`m2det.model` the network, `m2det.data` the data path, `m2det.train` the training,
`m2det.evaluate` detections and metrics, `m2det.ops` the compiled non-maximum suppression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2det.detect.detections import Detections
    from m2det.detect.detector import Detector, load

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "load"]

_MODULES = {"Detections": "detect.detections", "Detector": "detect.detector", "load": "detect.detector"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'm2det' has no attribute {name!r}")
    return getattr(import_module(f"m2det.{_MODULES[name]}"), name)
