# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The loops of non-maximum suppression, compiled; `m2det.ops` is their public face.

Boxes are x2 - x1 + 1 pixels wide. Where the original rounds to float32, these loops do: its hard NMS after
every operation, its soft-NMS only when a value is stored (Cython's `+ 1` on a float is a double).
"""

from libc.math cimport exp
from libc.stdint cimport int64_t


cdef inline double side(float low, float high) noexcept nogil:
    return (high - low) + 1.0


cdef inline float intersection(const float* a, const float* b) noexcept nogil:
    cdef float width = side(max(a[0], b[0]), min(a[2], b[2]))
    cdef float height = side(max(a[1], b[1]), min(a[3], b[3]))
    return width * height if width > 0 and height > 0 else 0


cdef inline float hard_area(const float* box) noexcept nogil:
    return <float> side(box[0], box[2]) * <float> side(box[1], box[3])


cdef inline float hard_iou(const float* a, const float* b) noexcept nogil:
    cdef float common = intersection(a, b)
    return common / (hard_area(a) + hard_area(b) - common)


cdef inline double soft_area(const float* box) noexcept nogil:
    return side(box[0], box[2]) * side(box[1], box[3])


cdef inline float soft_iou(const float* selected, const float* box) noexcept nogil:
    cdef float common = intersection(selected, box)
    cdef float union_ = soft_area(selected) + <float> soft_area(box) - common
    return common / union_


def nms_by_class(
    const float[:, ::1] dets, int64_t[::1] order, const int64_t[::1] ends, int64_t[::1] kept,
    double threshold, Py_ssize_t limit
) -> None:
    """Hard NMS within each class: the rows to keep move to the front of the class in `order`, which has them best first.

    A class ends before `ends`; `kept` takes how many rows it keeps.
    """
    cdef Py_ssize_t c, start = 0
    with nogil:
        for c in range(ends.shape[0]):
            kept[c] = hard_nms(&dets[0, 0], &order[start], ends[c] - start, threshold, limit)
            start = ends[c]


def soft_nms_by_class(
    float[:, ::1] dets, const int64_t[::1] ends, int64_t[::1] kept,
    str method, float threshold, float sigma, float score_threshold, Py_ssize_t limit
) -> None:
    """Soft-NMS within each class, in place: the rows to keep move to the front of the class, in order of selection.

    `kept` takes how many rows each class keeps.
    """
    cdef bint gaussian = method == "gaussian", linear = method == "linear"
    cdef Py_ssize_t c, start = 0
    with nogil:
        for c in range(ends.shape[0]):
            kept[c] = soft_nms(
                &dets[start, 0], ends[c] - start, gaussian, linear, threshold, sigma, score_threshold, limit
            )
            start = ends[c]


cdef Py_ssize_t hard_nms(
    const float* dets, int64_t* order, Py_ssize_t n, double threshold, Py_ssize_t limit
) noexcept nogil:
    """Move the rows to keep to the front of `order` (indices, best first); return their number."""
    cdef Py_ssize_t kept = 0, survivors, i
    cdef const float* best
    while kept < n and kept < limit:
        best = dets + 5 * order[kept]
        kept += 1
        survivors = kept
        for i in range(kept, n):
            if not hard_iou(best, dets + 5 * order[i]) >= threshold:
                order[survivors] = order[i]
                survivors += 1
        n = survivors
    return kept


cdef Py_ssize_t soft_nms(
    float* dets, Py_ssize_t n, bint gaussian, bint linear,
    float threshold, float sigma, float score_threshold, Py_ssize_t limit
) noexcept nogil:
    """Move the rows to keep to the front, in order of selection; return their number.

    Ties fall as the original's swaps make them fall, so the rows must move exactly as here.
    """
    cdef Py_ssize_t top = 0, best, i
    cdef float overlap, weight
    cdef float* selected
    cdef float* row
    while top < n and top < limit:
        selected = dets + 5 * top
        best = top
        for i in range(top + 1, n):
            if dets[5 * i + 4] > dets[5 * best + 4]:
                best = i
        swap(selected, dets + 5 * best)

        i = top + 1
        while i < n:
            row = dets + 5 * i
            overlap = soft_iou(selected, row)
            if overlap > 0:
                if gaussian:
                    weight = <float> exp(-(overlap * overlap) / sigma)
                elif overlap > threshold:
                    weight = 1 - overlap if linear else 0
                else:
                    weight = 1
                row[4] *= weight
                if row[4] < score_threshold:  # the last row takes its place and is next
                    n -= 1
                    copy(dets + 5 * n, row)
                    continue
            i += 1
        top += 1
    return top


cdef inline void copy(const float* source, float* target) noexcept nogil:
    cdef int k
    for k in range(5):
        target[k] = source[k]


cdef inline void swap(float* a, float* b) noexcept nogil:
    cdef float[5] kept
    copy(a, kept)
    copy(b, a)
    copy(kept, b)
