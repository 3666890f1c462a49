"""Decoding images, JPEGs by the fastest library that is installed."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

import cv2
import numpy as np

from m2det.data.no_image import describe_no_image
from m2det.data.orientation import JPEG_START, PNG_START, TIFF_STARTS, exif_orientation, turn_upright
from m2det.errors import InputError

log = logging.getLogger(__name__)

REDUCTIONS = (8, 4, 2, 1)  # what a JPEG's side can be divided by while it is decoded, at less than the full cost
RAW = struct.Struct("<4sHH")  # head of a record of plain pixels: RAW_MARK, width, height; uint8 BGR rows follow
RAW_MARK = b"\x00BGR"  # begins no image file

_REDUCED = {r: getattr(cv2, f"IMREAD_REDUCED_COLOR_{r}") for r in (2, 4, 8)} | {1: cv2.IMREAD_COLOR}

JpegDecoder = Callable[[bytes, int], np.ndarray | None]


def decode_bgr(data: bytes, name: str, reduction: int = 1) -> np.ndarray:
    """Decode an image, upright as its EXIF says; of a damaged one the readable part is returned.

    Args:
        data: an encoded image, or a record of plain pixels (RAW).
        name: of the image, for the message.
        reduction: one of REDUCTIONS; H and W are divided by that and rounded up.

    Returns:
        uint8 [H,W,3] BGR, greyscale repeated; perhaps read-only.

    Raises:
        InputError: the bytes are no image.
    """
    image = _raw_pixels(data) if data.startswith(RAW_MARK) else None
    if image is not None:
        return shrunk(image, reduction)
    if data.startswith(JPEG_START):
        # stray bytes, odd colour spaces: the strict libraries refuse them, OpenCV decides
        with suppress(ValueError, OSError):
            image = jpeg_decoder()(data, reduction)
    if image is None:
        image = opencv_decoder(data, reduction)
    if image is None:
        raise InputError(f"{name} {describe_no_image(data)}")
    orientation = 1 if data.startswith(TIFF_STARTS) else exif_orientation(data)  # OpenCV turns a TIFF by itself
    return image if orientation == 1 else turn_upright(image, orientation)


@lru_cache(maxsize=1)
def jpeg_decoder() -> JpegDecoder:
    """Return the fastest decoder that is installed; the choice is logged with its reason, once.

    The decoder is called with a JPEG and one of REDUCTIONS, and raises ValueError or OSError for a JPEG it refuses.
    """
    reasons = []
    for make in (simplejpeg_decoder, turbojpeg_decoder):
        name = make.__name__.removesuffix("_decoder")
        try:
            decoder = make()
        except (ImportError, RuntimeError) as error:  # RuntimeError: PyTurboJPEG without its library
            reasons.append(f"{name} does not load ({str(error).splitlines()[0]})")
            continue
        log.info("JPEG decoder: %s, %s", name, "; ".join(reasons) or "the fastest")
        return decoder
    log.info("JPEG decoder: OpenCV, %s", "; ".join(reasons))
    return opencv_decoder


def simplejpeg_decoder() -> JpegDecoder:
    """Return simplejpeg's decoder. Raises ImportError where that is not installed."""
    import simplejpeg

    def decode(data: bytes, reduction: int) -> np.ndarray:
        if reduction == 1:
            return simplejpeg.decode_jpeg(data, "BGR")
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        size = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
        return simplejpeg.decode_jpeg(data, "BGR", min_factor=reduction, **size)

    return decode


def turbojpeg_decoder() -> JpegDecoder:
    """Return PyTurboJPEG's decoder. Raises ImportError or, without its library, RuntimeError."""
    import turbojpeg

    library = turbojpeg.TurboJPEG()
    # damage is a warning only; set once, since a filter belongs to all threads; not for what its code deprecates
    warnings.filterwarnings("error", category=UserWarning, module="turbojpeg")

    def decode(data: bytes, reduction: int) -> np.ndarray:
        try:
            return library.decode(data, turbojpeg.TJPF_BGR, scaling_factor=(1, reduction))
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning

    return decode


def opencv_decoder(data: bytes, reduction: int) -> np.ndarray | None:
    """Decode any image as stored; None if the bytes are no image."""
    if data.startswith(PNG_START) and not _png_chunks_fit(data):
        return None  # OpenCV allocates any length that a chunk claims, up to 4 GB
    is_jpeg = data.startswith(JPEG_START)
    # OpenCV's versions differ in which formats' EXIF they heed
    how = (_REDUCED[reduction] if is_jpeg else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None
    except cv2.error:  # a header of more than 2^30 pixels
        return None
    return image if is_jpeg or image is None else shrunk(image, reduction)


def _raw_pixels(data: bytes) -> np.ndarray | None:
    """Return a RAW record's pixels; None for a file of another kind that begins alike."""
    _, width, height = RAW.unpack(data[: RAW.size].ljust(RAW.size, b"\0"))
    pixels = np.frombuffer(data, np.uint8)[RAW.size :]
    return pixels.reshape(height, width, 3) if 0 < pixels.size == 3 * width * height else None


def _png_chunks_fit(data: bytes) -> bool:
    """Return whether the chunks (length, name of 4 bytes, contents, sum of 4 bytes) end within the file."""
    offset = len(PNG_START)
    while offset + 8 <= len(data) and data[offset + 4 : offset + 8] != b"IEND":
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    return offset <= len(data)


def shrunk(image: np.ndarray, reduction: int) -> np.ndarray:
    """Return a decoded image, uint8 [H,W,3], with sides divided by one of REDUCTIONS and rounded up."""
    if reduction == 1:
        return image
    height, width = (-(-side // reduction) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
