"""Non-maximum suppression with the original's semantics, compiled (nms.pyx).

Without the compiled module the import works, and a call raises an InputError that says how to build it.
`m2det.ops.numpy_nms` has the same two functions in plain NumPy: slow, for the tests to compare with.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from m2det.errors import InputError

SOFT_METHODS = ("hard", "linear", "gaussian")


def nms(dets: NDArray[np.float32], iou_threshold: float, limit: int | None = None) -> NDArray[np.int64]:
    """Apply hard non-maximum suppression: a kept box removes each box of lower score with IoU >= `iou_threshold`.

    Args:
        dets: float32 [N,5], xyxy in pixels and score; a box is x2 - x1 + 1 pixels wide. Not modified.
        iou_threshold: In [0,1].
        limit: Maximum number of boxes to keep; the result is the beginning of the unlimited one.

    Returns:
        int64 [K], the indices of the kept rows, best first; of equal scores the earlier row comes first.

    Raises:
        InputError: `dets` has another shape, or the extension is not built.
    """
    compiled = _compiled()
    rows = _rows(dets)
    order = np.argsort(-rows[:, 4], kind="stable").astype(np.int64, copy=False)
    return order[: compiled.nms(rows, order, iou_threshold, _limit(rows, limit))]


def soft_nms(
    dets: NDArray[np.float32],
    method: str,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    limit: int | None = None,
) -> NDArray[np.float32]:
    """Apply soft-NMS (Bodla et al. 2017, arXiv:1704.04503): a selected box lowers the scores of boxes it overlaps.

    Args:
        dets: float32 [N,5], xyxy in pixels and score; a box is x2 - x1 + 1 pixels wide. Not modified.
        method: The factor of a score: "linear" 1 - IoU where IoU > `iou_threshold`; "gaussian" exp(-IoU^2 / sigma)
            always; "hard" 0 where IoU > `iou_threshold`.
        iou_threshold: In [0,1].
        sigma: Of the gaussian.
        score_threshold: A box that overlaps a selected one and then scores less is dropped; a box that overlaps none
            stays, however low its score.
        limit: Maximum number of boxes to select; the result is the beginning of the unlimited one.

    Returns:
        float32 [K,5]: the remaining rows with their new scores, in order of selection.

    Raises:
        InputError: `dets` has another shape, the method is unknown, or the extension is not built.
    """
    compiled = _compiled()
    if method not in SOFT_METHODS:
        raise InputError(f"soft-NMS method {method!r} is unknown: use one of {', '.join(SOFT_METHODS)}")
    rows = _rows(dets).copy()
    return rows[: compiled.soft_nms(rows, method, iou_threshold, sigma, score_threshold, _limit(rows, limit))]


def _rows(dets: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = np.ascontiguousarray(dets, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != 5:  # the compiled loops do not check bounds
        raise InputError(f"NMS takes rows of x1, y1, x2, y2, score, an array [N, 5], not {list(rows.shape)}")
    return rows


def _limit(rows: NDArray[np.float32], limit: int | None) -> int:
    return len(rows) if limit is None else limit


def _compiled() -> ModuleType:
    try:
        import m2det.ops._nms as compiled
    except ImportError as error:
        raise InputError(
            f"the compiled NMS is missing here ({error}): build it with `dvc repro -f ops` in the repository, "
            "or `python setup.py build_ext --inplace`"
        ) from error
    return compiled
