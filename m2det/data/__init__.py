"""The data path: a source's annotations and images -> the packed cache -> batches.

    split = read_split([("instances.json", "images")])              # sources: COCO format
    finish_cache(folder, split.categories, {"train": write_split(folder, "train", split)})   # packed: write
    dataset = TrainingDataset(PackedSplit(folder, "train"), size=320, seed=0, settings=params.train)
    batches = training_loader(dataset, TrainingBatchSampler(...), workers=2, pin=False)

Importing this package imports nothing else; a name is imported when it is first used.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Batch": "batch",
    "PackedSplit": "packed.reader",
    "PlainDataset": "dataset",
    "TrainingBatchSampler": "sampler",
    "TrainingDataset": "dataset",
    "finish_cache": "packed.writer",
    "read_split": "sources.coco",
    "training_loader": "dataloader",
    "write_split": "packed.writer",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
