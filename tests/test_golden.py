"""The numbers of the original in tests/golden are those of the full set."""

import json

import numpy as np

from tests.golden.reference import arrays, keys
from tests.golden.thin import KEYS, thinned


def test_the_committed_numbers_are_part_of_the_full_set(shared):
    for name, expected in thinned(shared / "golden"):
        committed = arrays(name)
        assert list(committed) == list(expected)
        for key in expected:
            np.testing.assert_array_equal(committed[key], expected[key])
    for name in KEYS:
        assert keys(name) == json.loads((shared / f"golden/keys_{name}.json").read_text())
