"""Decoding, in one place."""

from __future__ import annotations

import logging
import os
import struct
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from m2det.errors import InputError
from m2det.files.regular_file import require_regular

log = logging.getLogger(__name__)

REDUCTIONS = (8, 4, 2, 1)  # what a JPEG's side can be divided by while it is decoded, at less than the full cost
RAW = struct.Struct("<4sHH")  # head of a record of plain pixels: RAW_MARK, width, height; uint8 BGR rows follow
RAW_MARK = b"\x00BGR"  # begins no image file

_JPEG_START, _PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_REDUCED = {r: getattr(cv2, f"IMREAD_REDUCED_COLOR_{r}") for r in (2, 4, 8)} | {1: cv2.IMREAD_COLOR}

JpegDecoder = Callable[[bytes, int], np.ndarray | None]


def decode_bgr(data: bytes, name: str, upright: bool = False, reduction: int = 1) -> np.ndarray:
    """An encoded image -> uint8 [H,W,3] BGR, greyscale repeated; perhaps read-only.

    upright turns it as its EXIF orientation says; a data set's boxes are of the image as it is stored.
    reduction: of REDUCTIONS; H and W are divided by it and rounded up.
    Raises InputError naming the image when the bytes are no image; of one that is damaged, what can be read is
    returned (check_size finds those).
    """
    image = _raw_pixels(data) if data.startswith(RAW_MARK) else None
    if image is not None:
        return _shrunk(image, reduction)
    if data.startswith(_JPEG_START) and not upright:
        # stray bytes, odd colour spaces: the strict libraries refuse, OpenCV says what becomes of them
        with suppress(ValueError, OSError):
            image = jpeg_decoder()(data, reduction)
    if image is None:
        image = opencv_decoder(data, reduction, upright)
    if image is None:
        raise InputError(f"{name} cannot be decoded: it is damaged, empty or no image; replace it")
    return image


@lru_cache(maxsize=1)
def jpeg_decoder() -> JpegDecoder:
    """The fastest decoder that is there; it raises ValueError or OSError for a JPEG it does not take.

    Called with a JPEG and one of REDUCTIONS. The choice is logged with its reason, once.
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
    import simplejpeg

    def decode(data: bytes, reduction: int) -> np.ndarray:
        if reduction == 1:
            return simplejpeg.decode_jpeg(data, "BGR")
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        least = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
        return simplejpeg.decode_jpeg(data, "BGR", min_factor=reduction, **least)

    return decode


def turbojpeg_decoder() -> JpegDecoder:
    import turbojpeg

    library = turbojpeg.TurboJPEG()
    # it only warns of damage; set once, since a filter belongs to all threads; not for what its code deprecates
    warnings.filterwarnings("error", category=UserWarning, module="turbojpeg")

    def decode(data: bytes, reduction: int) -> np.ndarray:
        try:
            return library.decode(data, turbojpeg.TJPF_BGR, scaling_factor=(1, reduction))
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning

    return decode


def opencv_decoder(data: bytes, reduction: int, upright: bool = False) -> np.ndarray | None:
    """For any image; None for what is none."""
    if data.startswith(_PNG_START) and not _png_chunks_fit(data):
        return None  # OpenCV makes room for whatever length a chunk claims, up to 4 GB
    turn, encoded = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION, np.frombuffer(data, np.uint8)
    is_jpeg = data.startswith(_JPEG_START)
    try:
        image = cv2.imdecode(encoded, (_REDUCED[reduction] if is_jpeg else cv2.IMREAD_COLOR) | turn) if data else None
    except cv2.error:  # a header that speaks of more than 2^30 pixels
        return None
    return image if is_jpeg or image is None else _shrunk(image, reduction)


def _raw_pixels(data: bytes) -> np.ndarray | None:
    """None for a file of someone else's that begins alike."""
    _, width, height = RAW.unpack(data[: RAW.size].ljust(RAW.size, b"\0"))
    pixels = np.frombuffer(data, np.uint8)[RAW.size :]
    return pixels.reshape(height, width, 3) if 0 < pixels.size == 3 * width * height else None


def _png_chunks_fit(data: bytes) -> bool:
    """Whether the chunks, each its length, a name of 4 bytes, contents and 4 bytes of sum, end within the file."""
    at = len(_PNG_START)
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return at <= len(data)


def _shrunk(image: np.ndarray, reduction: int) -> np.ndarray:
    if reduction == 1:
        return image
    height, width = (-(-side // reduction) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Files as given, folders' pictures in name order.

    In a folder, other folders are passed over, and what else is no regular file is named on stderr.
    Raises InputError for what was given and is not there or no regular file, and for a folder that holds no pictures.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            _require_file(path)
            found.append(path)
            continue
        inside = _pictures_in(path)
        if not inside:
            raise InputError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        found += inside
    return found


def _pictures_in(folder: Path) -> list[Path]:
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            _require_file(path)
            found.append(path)
        except InputError as error:
            if not os.path.isdir(path):  # noqa: PTH112 - Path's raises where a link leads to what is closed to us
                print(f"left out: {error}", file=sys.stderr)
    return found


def _require_file(path: Path) -> None:
    try:
        require_regular(path, path.stat())
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
