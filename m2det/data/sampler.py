"""The images of each training step, and the share of each process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from m2det.data.sampling import Stream, generator
from m2det.errors import InputError


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """Return the permutation of an epoch's images, int64 [images]."""
    return generator(seed, Stream.ORDER, epoch).permutation(images)


class TrainingBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yield the microbatches of (epoch, index) that one process computes in a whole training.

    Every epoch has its own permutation; its last, partial step is left out. Which images a step has, and which of them
    share a microbatch, depends on batch_size and microbatch alone, not on the number of processes.
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
        microbatch: int | None = None,
    ) -> None:
        """Choose the share of process `rank`.

        Args:
            images: of the split.
            batch_size: images of a step, all processes together.
            seed: of the permutations.
            steps: of the whole training.
            start: the first step to yield.
            rank: this process, from 0.
            processes: that share each step.
            microbatch: images that are computed together, by default a process's whole share of a step; it divides
                that share.

        Raises:
            InputError: the split has fewer images than a step.
        """
        if images < batch_size:
            raise InputError(f"train.batch_size is {batch_size}, but there are only {images} training images; lower it")
        share = batch_size // processes
        self.microbatch = microbatch or share
        assert share % self.microbatch == 0 and share * processes == batch_size
        self.images, self.seed, self.batch_size = images, seed, batch_size
        self.accumulation = share // self.microbatch
        self.share = slice(rank * share, (rank + 1) * share)
        self.steps, self.start = steps, start
        self.steps_per_epoch = images // batch_size

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return this process's share of step number `step` (from 0, over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.images)
        return [(epoch, int(i)) for i in order[within * self.batch_size : (within + 1) * self.batch_size][self.share]]

    def microbatches(self, step: int) -> list[list[tuple[int, int]]]:
        """Return the same share as the microbatches that are computed one after the other."""
        batch = self.batch(step)
        return [batch[i : i + self.microbatch] for i in range(0, len(batch), self.microbatch)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (microbatch for step in range(self.start, self.steps) for microbatch in self.microbatches(step))

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulation
