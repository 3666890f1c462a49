"""`python -m tests.golden.thin FULL`: write the files of this folder from the full set of numbers in the folder FULL.

Kept whole: the loss, the schedule, non-maximum suppression and the lists of keys. Of the network's outputs every fourth
of the 512 sampled rows is kept, and every seventh prior box (7 shares no divisor with the 6 priors of a cell, so
priors of all shapes stay); sums over all rows stand beside them.
"""

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.golden.reference import FOLDER

MODELS = ("m2det512_vgg", "m2det320_vgg_sfam")
PRIORS = ("m2det512_vgg", "m2det320_vgg")
KEYS = (*MODELS, "m2det320_resnet50_sfam", "m2det320_resnet101")


def thinned(full: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the name and the arrays of each .npz file."""
    for name in MODELS:
        data = dict(np.load(full / f"forward_{name}.npz"))
        yield f"forward_{name}", data | {key: data[key][::4] for key in ("idx", "loc", "conf")}
    for name in PRIORS:
        priors = np.load(full / f"priors_{name}.npz")["priors"]
        arrays = {"count": np.int64(len(priors)), "sum": priors.sum(0, np.float64), "priors": priors[::7]}
        yield f"priors_{name}", arrays
    for name in ("loss_320", "lr_512", "nms"):
        yield name, dict(np.load(full / f"{name}.npz"))


def main(full: Path) -> None:
    for name, arrays in thinned(full):
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    for name in KEYS:
        text = (full / f"keys_{name}.json").read_bytes()
        (FOLDER / f"keys_{name}.json.gz").write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
