"""The learning rate is the original's."""

import pytest

from m2det.train.schedule import learning_rate
from tests.golden.reference import arrays


def test_rates_equal_the_original():
    for steps, epoch, step, rate in arrays("lr_512")["rows"]:
        assert learning_rate(int(epoch) - 1, step / steps) == pytest.approx(rate, rel=1e-5), (epoch, step)


def test_milestones_are_fractions_of_the_epochs():
    rates = [
        learning_rate(e, 0.0, epochs=10, base=1.0, factors=(1, 0.1, 0.01), milestones=(0.7, 0.9)) for e in range(10)
    ]
    assert rates[1:] == pytest.approx([1] * 6 + [0.1] * 2 + [0.01])
    assert rates[0] == pytest.approx(1e-6)
