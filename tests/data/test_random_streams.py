"""No two uses of seeds share random numbers."""

import itertools
from collections import Counter

import numpy as np

from m2det.data.sampler import epoch_order
from m2det.data.sampling import Stream, generator

SEEDS = [0, 1, 2, 49, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, (1 << 32) | 49, (2 << 32) | 1, 2**63, 2**64 - 1]
NUMBERS = [0, 1, 2, 3, 48, 49, 255, 256, 65_535, 123_286, 2**31, 2**32 - 1]


def state(rng: np.random.Generator) -> tuple[int, int]:
    inner = rng.bit_generator.state["state"]
    return inner["state"], inner["inc"]


def test_no_two_keys_have_a_generator_in_common():
    """Zeros at the end, words that shift from seed to epoch to index, numbers that fill their 32 bits."""
    keys = [
        (seed, stream, *rest)
        for seed in SEEDS
        for stream in Stream
        for length in (0, 1, 2)
        for rest in itertools.product(NUMBERS, repeat=length)
    ]
    states = Counter(state(generator(*key)) for key in keys)
    assert len(keys) == len(SEEDS) * len(Stream) * (1 + 12 + 144) == len(states)


def test_order_and_augmentation_use_different_random_numbers():
    """As it was where both were seeded by tuples, of which one ended with a zero."""
    for epoch in range(3):
        augmentation = generator(49, Stream.AUGMENTATION, epoch, 0)
        assert not np.array_equal(epoch_order(49, epoch, 1000), augmentation.permutation(1000))


def test_first_numbers_of_neighbouring_keys_are_uniform_and_independent():
    """Of 10,000 images in two epochs: shares of tenths, and no correlation with the neighbours'."""
    drawn = np.array([[generator(7, Stream.AUGMENTATION, e, i).random() for i in range(10_000)] for e in range(2)])
    for epoch in drawn:
        assert np.abs(np.histogram(epoch, 10, (0, 1))[0] - 1000).max() < 120  # 4 sigma
        assert abs(np.corrcoef(epoch[:-1], epoch[1:])[0, 1]) < 0.04
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.04
