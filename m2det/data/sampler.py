"""Which images each training step has, and which of them each process computes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from m2det.data.sampling import Stream, generator
from m2det.errors import InputError


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The permutation of an epoch, int64 [images]."""
    return generator(seed, Stream.ORDER, epoch).permutation(images)


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for a whole training, a permutation per epoch, the last partial step left out.

    batch_size: images per batch; a step has `accumulate` batches in each of `processes`, and process `rank` gets
    its share of them. Which images a step has, all processes together, depends on its total size alone.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        steps: int,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
        accumulate: int = 1,
    ) -> None:
        own = batch_size * accumulate
        if images < own * processes:
            times = f", accumulated {accumulate} times" if accumulate > 1 else ""
            together = f" in each of {processes} processes" if processes > 1 else ""
            raise InputError(
                f"train.batch_size is {batch_size}{times}{together}, but there are only {images} training images; "
                "lower it"
            )
        self.images, self.seed = images, seed
        self.part_size, self.accumulate, self.total = batch_size, accumulate, own * processes
        self.share = slice(rank * own, (rank + 1) * own)
        self.steps, self.start = steps, start
        self.steps_per_epoch = images // self.total

    def batch(self, step: int) -> list[tuple[int, int]]:
        """What this process sees in step number `step` (from 0, over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.images)
        return [(epoch, int(i)) for i in order[within * self.total : (within + 1) * self.total][self.share]]

    def parts(self, step: int) -> list[list[tuple[int, int]]]:
        """The same as the batches that are computed one after the other."""
        batch = self.batch(step)
        return [batch[i : i + self.part_size] for i in range(0, len(batch), self.part_size)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (part for step in range(self.start, self.steps) for part in self.parts(step))

    def __len__(self) -> int:
        return (self.steps - self.start) * len(self.parts(0))
