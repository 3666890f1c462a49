"""Random numbers: one seed, a stream for each use of it, and none that repeats another's numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What numbers are drawn for; another number is another training."""

    ORDER = 1  # of an epoch's images
    AUGMENTATION = 2  # of an image in an epoch
    SHOWN = 3  # which images a sheet of samples has


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """The generator for this use of the seed, which is below 2**64; key: further numbers, each below 2**32.

    A spawn key is hashed after the seed, padded to 128 bits: a tuple as seed would run its numbers together, and ignore
    zeros at its end.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *key)))
