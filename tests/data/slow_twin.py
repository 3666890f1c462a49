"""SSD's augmentation step by step, as in the original M2Det's data/data_augment.py, for comparison.

Every step makes a picture; randomness is NumPy's. Parameters are sampled apart, so that a test can give them.
"""

import cv2
import numpy as np

MEAN = (104, 117, 123)
MODES = (None, 0.1, 0.3, 0.5, 0.7, 0.9, -np.inf)


def iou(boxes: np.ndarray, roi: np.ndarray) -> np.ndarray:
    low, high = np.maximum(boxes[:, :2], roi[:2]), np.minimum(boxes[:, 2:], roi[2:])
    inter = np.prod(high - low, 1) * (low < high).all(1)
    return inter / (np.prod(boxes[:, 2:] - boxes[:, :2], 1) + np.prod(roi[2:] - roi[:2]) - inter)


def sample_roi(boxes: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray | None:
    """x1, y1, x2, y2 of the crop; None for the whole image."""
    while True:
        mode = MODES[rng.integers(7)]
        if mode is None:
            return None
        for _ in range(50):
            scale = rng.uniform(0.3, 1.0)
            ratio = np.sqrt(rng.uniform(max(0.5, scale * scale), min(2, 1 / scale / scale)))
            w, h = int(scale * ratio * width), int(scale / ratio * height)
            left, top = rng.integers(width - w), rng.integers(height - h)
            roi = np.array([left, top, left + w, top + h])
            if iou(boxes, roi).min() >= mode and inside(boxes, roi).any():
                return roi


def inside(boxes: np.ndarray, roi: np.ndarray) -> np.ndarray:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((roi[:2] < centres) & (centres < roi[2:])).all(1)


def crop(image: np.ndarray, boxes: np.ndarray, roi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = boxes[inside(boxes, roi)].copy()
    kept[:, :2] = np.maximum(kept[:, :2], roi[:2]) - roi[:2]
    kept[:, 2:] = np.minimum(kept[:, 2:], roi[2:]) - roi[:2]
    return image[roi[1] : roi[3], roi[0] : roi[2]], kept


def sample_colours(rng: np.random.Generator) -> tuple:
    """brightness, contrast, hue, saturation; each None half of the time."""
    ranges = ((-32, 32), (0.5, 1.5), (-18, 18), (0.5, 1.5))
    drawn = [rng.uniform(*r) if rng.integers(2) else None for r in ranges]
    return (*drawn[:2], None if drawn[2] is None else int(rng.integers(-18, 19)), drawn[3])


def distort(image: np.ndarray, brightness, contrast, hue, saturation) -> np.ndarray:
    image = image.copy()
    if brightness is not None:
        image[:] = (image.astype(float) + brightness).clip(0, 255)
    if contrast is not None:
        image[:] = (image.astype(float) * contrast).clip(0, 255)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if hue is not None:
        image[..., 0] = (image[..., 0].astype(int) + hue) % 180
    if saturation is not None:
        image[..., 1] = (image[..., 1].astype(float) * saturation).clip(0, 255)
    return cv2.cvtColor(image, cv2.COLOR_HSV2BGR)


def sample_canvas(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """left, top, width, height; None in 4 of 10 cases."""
    if rng.random() > 0.6:
        return None
    for _ in range(50):
        scale = rng.uniform(1, 4)
        ratio = np.sqrt(rng.uniform(max(0.5, 1 / scale / scale), min(2, scale * scale)))
        if scale * ratio >= 1 and scale / ratio >= 1:
            w, h = int(scale * ratio * width), int(scale / ratio * height)
            return int(rng.integers(w - width + 1)), int(rng.integers(h - height + 1)), w, h
    return None


def expand(image: np.ndarray, boxes: np.ndarray, left: int, top: int, w: int, h: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    canvas = np.empty((h, w, 3), np.uint8)
    canvas[:] = MEAN
    canvas[top : top + height, left : left + width] = image
    return canvas, boxes + np.array([left, top, left, top])


def mirror(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes = boxes.copy()
    boxes[:, 0::2] = image.shape[1] - boxes[:, 2::-2]
    return image[:, ::-1], boxes


def finish(image: np.ndarray, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    small = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=cv2.INTER_LINEAR)
    return small, boxes / [width, height, width, height]


def sample_boxes(boxes: np.ndarray, width: int, height: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A whole sample's boxes in [0,1], and the share of the output that the image covers; no pixels."""
    roi = sample_roi(boxes, width, height, rng)
    if roi is not None:
        _, boxes = crop(np.empty((height, width, 0)), boxes, roi)
        width, height = roi[2:] - roi[:2]
    canvas = sample_canvas(width, height, rng)
    share = 1.0
    if canvas:
        left, top, w, h = canvas
        boxes, share = boxes + np.array([left, top, left, top]), width * height / (w * h)
        width, height = w, h
    if rng.integers(2):
        boxes = boxes.copy()
        boxes[:, 0::2] = width - boxes[:, 2::-2]
    boxes = boxes / [width, height, width, height]
    return boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) > 0.01], share
