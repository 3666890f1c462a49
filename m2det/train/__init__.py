"""Training: `train` runs or resumes one and returns a `TrainResult`.

Both are imported on first use: `m2det.train.schedule` and the commands that list runs work without loading the trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2det.train.trainer import TrainResult, train

__all__ = ["TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("m2det.train.trainer"), name)
