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


def nms(const float[:, ::1] dets, int64_t[::1] order, double threshold, Py_ssize_t limit) -> int:
    """Hard NMS: move the rows to keep to the front of `order` (indices, best first); return their number."""
    cdef Py_ssize_t n = order.shape[0], kept = 0, survivors, i
    cdef const float* best
    with nogil:
        while kept < n and kept < limit:
            best = &dets[order[kept], 0]
            kept += 1
            survivors = kept
            for i in range(kept, n):
                if not hard_iou(best, &dets[order[i], 0]) >= threshold:
                    order[survivors] = order[i]
                    survivors += 1
            n = survivors
    return kept


def soft_nms(
    float[:, ::1] dets, str method, float threshold, float sigma, float score_threshold, Py_ssize_t limit
) -> int:
    """Soft-NMS in place: move the rows to keep to the front, in order of selection; return their number.

    Ties fall as the original's swaps make them fall, so the rows must move exactly as here.
    """
    cdef bint gaussian = method == "gaussian", linear = method == "linear"
    cdef Py_ssize_t n = dets.shape[0], top, best, i
    cdef float overlap, weight
    with nogil:
        top = 0
        while top < n and top < limit:
            best = top
            for i in range(top + 1, n):
                if dets[i, 4] > dets[best, 4]:
                    best = i
            swap(&dets[top, 0], &dets[best, 0])

            i = top + 1
            while i < n:
                overlap = soft_iou(&dets[top, 0], &dets[i, 0])
                if overlap > 0:
                    if gaussian:
                        weight = <float> exp(-(overlap * overlap) / sigma)
                    elif overlap > threshold:
                        weight = 1 - overlap if linear else 0
                    else:
                        weight = 1
                    dets[i, 4] *= weight
                    if dets[i, 4] < score_threshold:  # the last row takes its place and is next
                        n -= 1
                        copy(&dets[n, 0], &dets[i, 0])
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
