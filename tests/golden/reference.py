"""Numbers of the original M2Det (commit de4a624): how they are read, and the inputs that they belong to."""

import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def arrays(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of NAME.npz by name; README.md lists them."""
    with np.load(FOLDER / f"{name}.npz") as data:
        return dict(data)


def keys(name: str) -> dict[str, list[int]]:
    """Return the state dict of keys_NAME.json.gz: each key with its shape, in the original's order."""
    return json.loads(gzip.decompress((FOLDER / f"keys_{name}.json.gz").read_bytes()))


def fill(key: str, shape: list[int]) -> np.ndarray:
    """Return the tensor of `shape` that stands under `key` in the reference state dict, from the key alone.

    Keys of one shared module (leach.*, fc1 and fc2 of SFAM) give the same tensor.
    """
    key = re.sub(r"^leach\.\d+\.", "leach.0.", key)
    key = re.sub(r"^(sfam_module\.fc[12])\.\d+\.", r"\1.0.", key)
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    kind = key.rsplit(".", 1)[1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    if kind in ("running_mean", "bias"):
        return rng.uniform(-0.1, 0.1, shape).astype(np.float32)
    if len(shape) == 1:  # the weight of a batch normalization
        return rng.uniform(0.3, 0.6, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


def image(seed: int, count: int, size: int) -> np.ndarray:
    """Return the input batch: float32 [count, 3, size, size], mean-subtracted."""
    return np.random.default_rng(seed).normal(0, 50, (count, 3, size, size)).astype(np.float32)
