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
    return nms_by_class(dets, _one_class(dets), iou_threshold, limit)


def nms_by_class(
    dets: NDArray[np.float32], ends: NDArray[np.int64], iou_threshold: float, limit: int | None = None
) -> NDArray[np.int64]:
    """Apply `nms` to each class.

    Args:
        dets: As for nms, class by class.
        ends: int64 [C], where each class ends; the last is N.
        iou_threshold: In [0,1].
        limit: Maximum number of boxes of a class.

    Returns:
        int64 [K], the indices of the kept rows, class by class, best first.

    Raises:
        InputError: `dets` has another shape, or the extension is not built.
    """
    compiled = _compiled()
    rows, kept = _rows(dets), np.zeros(len(ends), np.int64)
    by_score = [np.argsort(-scores, kind="stable") for scores in np.split(rows[:, 4], ends[:-1])]
    order = np.concatenate(by_score) + np.repeat(_starts(ends), np.diff(ends, prepend=0))
    compiled.nms_by_class(rows, order, ends, kept, iou_threshold, _limit(rows, limit))
    return order[_fronts(ends, kept)]


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
    return soft_nms_by_class(dets, _one_class(dets), method, iou_threshold, sigma, score_threshold, limit)[1]


def soft_nms_by_class(
    dets: NDArray[np.float32],
    ends: NDArray[np.int64],
    method: str,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    limit: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Apply `soft_nms` to each class.

    Args:
        dets: As for soft_nms, class by class.
        ends: int64 [C], where each class ends; the last is N.
        method, iou_threshold, sigma, score_threshold: As for soft_nms.
        limit: Maximum number of boxes of a class.

    Returns:
        int64 [K], the class of each remaining row, from 0; float32 [K,5], the remaining rows with their new scores,
        class by class, in order of selection.

    Raises:
        InputError: `dets` has another shape, the method is unknown, or the extension is not built.
    """
    compiled = _compiled()
    if method not in SOFT_METHODS:
        raise InputError(f"soft-NMS method {method!r} is unknown: use one of {', '.join(SOFT_METHODS)}")
    rows, kept = _rows(dets).copy(), np.zeros(len(ends), np.int64)
    limit = _limit(rows, limit)
    compiled.soft_nms_by_class(rows, ends, kept, method, iou_threshold, sigma, score_threshold, limit)
    return np.repeat(np.arange(len(ends)), kept), rows[_fronts(ends, kept)]


def _one_class(dets: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.array([len(dets)], np.int64)


def _fronts(ends: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the first kept[c] rows of each class c, which ends before ends[c]."""
    before = kept.cumsum() - kept  # rows kept of the classes before
    return np.arange(kept.sum()) + np.repeat(_starts(ends) - before, kept)


def _starts(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    return ends - np.diff(ends, prepend=0)


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
    if not hasattr(compiled, "soft_nms_by_class"):
        raise InputError("the compiled NMS is of an older version: build it again with `dvc repro -f ops`")
    return compiled
