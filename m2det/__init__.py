"""M2Det: a single-shot detector on a multi-level feature pyramid (Zhao et al., AAAI 2019).

    detector = m2det.load("models/m2det.safetensors")
    found = detector("photo.jpg")

    detector = m2det.train_detector("photos", "trained")
    metrics = m2det.evaluate_detector(detector, "photos")

Importing the package costs nothing; the parts import what they need:
`m2det.model` the network, `m2det.data` the data path, `m2det.train` the training,
`m2det.evaluate` detections and metrics, `m2det.ops` the compiled non-maximum suppression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2det.detect.detections import Detections
    from m2det.detect.detector import Detector, load
    from m2det.detect.evaluation import evaluate_detector
    from m2det.detect.training import train_detector

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "evaluate_detector", "load", "train_detector"]

_MODULES = {
    "Detections": "detect.detections",
    "Detector": "detect.detector",
    "evaluate_detector": "detect.evaluation",
    "load": "detect.detector",
    "train_detector": "detect.training",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'm2det' has no attribute {name!r}")
    return getattr(import_module(f"m2det.{_MODULES[name]}"), name)
