"""Postprocessing class by class, in plain NumPy over all priors: slow and readable, for the tests to compare with."""

import numpy as np

from m2det.boxes import decode_offsets_to_xyxy
from m2det.ops import nms, soft_nms


def slow_postprocess(loc, conf, priors, size, method, score_threshold, nms_iou, per_class, per_image):
    """Return what m2det.evaluate.postprocess does; arguments as there."""
    scores = conf.softmax(-1).numpy()
    boxes = decode_offsets_to_xyxy(loc, priors).numpy() * np.array([*size, *size], np.float32)
    per_label = [np.empty((0, 6), np.float32)]
    for label in range(1, scores.shape[1]):
        candidates = np.flatnonzero(scores[:, label] > score_threshold)
        rows = np.column_stack([boxes[candidates], scores[candidates, label]])
        if method == "hard":
            rows = rows[nms(rows, nms_iou, per_class)]
        else:
            rows = soft_nms(rows, method, iou_threshold=nms_iou, limit=per_class)
        per_label.append(np.column_stack([rows, np.full(len(rows), label, np.float32)]))
    detections = np.concatenate(per_label)
    if per_image:
        detections = detections[np.argsort(-detections[:, 4], kind="stable")[:per_image]]
    return detections
