"""Batches on their way from the loader to the device."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from m2det.data.batch import Batch


def prefetch_to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield copies of the batches on the device, made on a stream of their own while the device still computes."""
    if device.type == "cpu":
        yield from batches
        return
    copy_stream = torch.Stream(device)
    for batch in batches:
        with copy_stream:
            copy = batch.to(device)
        current = torch.accelerator.current_stream(device)
        current.wait_stream(copy_stream)
        for tensor in (copy.images, copy.boxes, copy.labels):
            tensor.record_stream(current)  # else the allocator could reuse the memory too early
        yield copy


def group_microbatches(batches: Iterator[Batch], accumulation: int) -> Iterator[tuple[Batch, ...]]:
    """Yield the microbatches of each step; the number of batches is a multiple of `accumulation`."""
    return zip(*[batches] * accumulation, strict=True)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Collect garbage inside only when asked to: automatic collection stops each process at another moment."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
