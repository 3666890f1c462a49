"""Decoding, in one place."""

from __future__ import annotations

import cv2
import numpy as np

from m2det.errors import InputError


def decode_bgr(data: bytes, name: str) -> np.ndarray:
    """An encoded image -> uint8 [H,W,3] BGR, greyscale repeated; EXIF rotation is not applied, as COCO's boxes.

    Raises InputError naming the image when the bytes are no image or end early.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise InputError(f"{name} cannot be decoded: it is damaged, empty or no image; replace it")
    return image


def check_jpeg_is_whole(data: bytes, name: str) -> None:
    """Raises InputError for a JPEG without its end, which decoders fill with grey and say nothing.

    Behind the last start-of-scan marker (FF DA) the end-of-image marker (FF D9) must follow; within a scan's
    data neither pair of bytes occurs.
    """
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise InputError(f"{name} is truncated (a JPEG without an end); replace it")


def check_size(data: bytes, name: str, width: int, height: int) -> None:
    """Raises InputError for an image that does not decode, or not to the annotated size."""
    actual = decode_bgr(data, name).shape[1::-1]
    if actual != (width, height):
        raise InputError(
            f"{name} is {actual[0]}x{actual[1]} px, its annotation says {width}x{height}; correct one of them"
        )
