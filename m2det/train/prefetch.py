"""From the loader to the device."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from m2det.data.batch import Batch


def prefetch_to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Copies of the batches there, made on a stream of their own, while the device works on earlier ones."""
    if device.type == "cpu":
        yield from batches
        return
    side = torch.Stream(device)
    for batch in batches:
        with side:
            copy = batch.to(device)
        current = torch.accelerator.current_stream(device)
        current.wait_stream(side)
        for tensor in (copy.images, copy.boxes, copy.labels):
            tensor.record_stream(current)  # or its memory could be handed out again too early
        yield copy


def group_microbatches(batches: Iterator[Batch], accumulate: int) -> Iterator[tuple[Batch, ...]]:
    """The batches of each step; their number is a multiple of accumulate."""
    return zip(*[batches] * accumulate, strict=True)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """No garbage collection inside but when it is asked for: it would stop each process at a moment of its own."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
