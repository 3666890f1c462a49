"""Non-maximum suppression: the original's results, compiled and in plain NumPy."""

import subprocess
import sys

import numpy as np
import pytest

from m2det import ops
from m2det.errors import InputError
from m2det.ops import numpy_nms
from tests.golden.reference import arrays

IMPLEMENTATIONS = pytest.mark.parametrize("op", [ops, numpy_nms], ids=["compiled", "numpy"])


@IMPLEMENTATIONS
def test_results_equal_the_original(op):
    data = arrays("nms")
    cases = sorted({name.split("_")[0] for name in data})
    assert cases
    for i in cases[: 4 if op is numpy_nms else None]:  # the fifth has 2,000 boxes: seconds in plain NumPy
        dets = data[f"{i}_dets"]
        for percent in (45, 70):
            np.testing.assert_array_equal(op.nms(dets, percent / 100), data[f"{i}_hard{percent}"])
        for method in ("linear", "gaussian", "hard"):
            expected = data[f"{i}_soft_{method}" if f"{i}_soft_{method}" in data else f"{i}_soft_hard0"]
            np.testing.assert_array_equal(op.soft_nms(dets, method), expected)


def random_dets(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 80, (n, 2))
    scores = rng.choice([0.2, 0.5, 0.9], n) if seed % 2 else rng.random(n)  # odd seeds: many ties
    return np.column_stack([low, low + rng.uniform(1, 60, (n, 2)), scores]).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 2, 60])
@pytest.mark.parametrize("seed", range(6))
def test_compiled_equals_numpy(seed, n):
    dets = random_dets(seed, n)
    before = dets.copy()
    for threshold in (0.3, 0.7):
        np.testing.assert_array_equal(ops.nms(dets, threshold), numpy_nms.nms(dets, threshold))
        for method in ops.SOFT_METHODS:
            np.testing.assert_array_equal(
                ops.soft_nms(dets, method, threshold), numpy_nms.soft_nms(dets, method, threshold)
            )
    np.testing.assert_array_equal(dets, before)


def test_wrong_arguments_end_in_a_sentence():
    with pytest.raises(InputError, match=r"\[N, 5\]"):
        ops.nms(np.zeros((3, 4), np.float32), 0.5)
    with pytest.raises(InputError, match="'cubic' is unknown"):
        ops.soft_nms(np.zeros((3, 5), np.float32), "cubic")


def test_without_the_extension_importing_works_and_calling_says_what_to_run():
    code = (
        "import sys; sys.modules['m2det.ops._nms'] = None\n"
        "import numpy, m2det.ops, m2det.evaluate\n"
        "try: m2det.ops.nms(numpy.zeros((1, 5), 'f4'), 0.5)\n"
        "except m2det.errors.InputError as error: print(error)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "dvc repro -f ops" in printed


@pytest.mark.parametrize("limit", [0, 1, 7, 1000])
def test_a_limit_gives_the_first_of_the_whole_result(limit):
    dets = random_dets(3, 60)
    np.testing.assert_array_equal(ops.nms(dets, 0.3, limit), ops.nms(dets, 0.3)[:limit])
    for method in ops.SOFT_METHODS:
        np.testing.assert_array_equal(ops.soft_nms(dets, method, limit=limit), ops.soft_nms(dets, method)[:limit])
