"""Decoding, in one place."""

from __future__ import annotations

import cv2
import numpy as np

from m2det.errors import InputError


def decode_bgr(data: bytes, name: str, upright: bool = False) -> np.ndarray:
    """An encoded image -> uint8 [H,W,3] BGR, greyscale repeated.

    upright turns it as its EXIF orientation says; a data set's boxes are of the image as it is stored.
    Raises InputError naming the image when the bytes are no image or end early.
    """
    flags = cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
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


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a JPEG's frame header says (ITU T.81, B.2.2); None for what is no JPEG."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + length
    return None


def check_header(data: bytes, name: str, width: int, height: int) -> None:
    """check_size by a JPEG's header alone; what is no JPEG is decoded."""
    size = jpeg_size(data)
    if size is None:
        check_size(data, name, width, height)
    elif size != (width, height):
        raise InputError(_wrong_size(name, size, width, height))


def check_size(data: bytes, name: str, width: int, height: int) -> None:
    """Raises InputError for an image that does not decode, or not to the annotated size."""
    actual = decode_bgr(data, name).shape[1::-1]
    if actual != (width, height):
        raise InputError(_wrong_size(name, actual, width, height))


def _wrong_size(name: str, actual: tuple[int, ...], width: int, height: int) -> str:
    return f"{name} is {actual[0]}x{actual[1]} px, its annotation says {width}x{height}; correct one of them"
