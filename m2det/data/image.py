"""Decoding, in one place."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache

import cv2
import numpy as np

from m2det.errors import InputError

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


def check_jpeg_is_whole(data: bytes, name: str) -> None:
    """Raises InputError for a JPEG without its end, which decoders fill with grey and say nothing.

    Behind the first start-of-scan marker (FF DA) the end-of-image marker (FF D9) must follow, which does not occur
    in a scan's data. What follows that does no harm: cameras append films. A thumbnail's end lies before.
    """
    if not data.startswith(_JPEG_START):
        return
    scan = next((at for marker, at in _markers(data) if marker == 0xDA), len(data))
    if data.rfind(b"\xff\xd9", scan) < 0:  # from behind, where it mostly is
        raise InputError(f"{name} is truncated (a JPEG without an end); replace it")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a JPEG's frame header says (ITU T.81, B.2.2); None for what is no JPEG."""
    for marker, at in _markers(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 7 <= len(data):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 3 : at + 5], "big")
    return None


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """A JPEG's markers up to its first scan, each with the place behind it; stray and fill bytes are skipped."""
    at = data.find(b"\xff", 2) if data.startswith(_JPEG_START) else -1
    while 0 <= at < len(data) - 3:
        marker = data[at + 1]
        if marker not in (0x00, 0x01, *range(0xD0, 0xDA), 0xFF):  # those have no segment
            yield marker, at + 2
            if marker == 0xDA:
                return
            at += 1 + int.from_bytes(data[at + 2 : at + 4], "big")
        at = data.find(b"\xff", at + 1)


def check_header(data: bytes, name: str, width: int, height: int) -> None:
    """check_size by a JPEG's header and end alone; what is no JPEG is decoded."""
    check_jpeg_is_whole(data, name)
    if jpeg_size(data) != (width, height):
        check_size(data, name, width, height)


def check_size(data: bytes, name: str, width: int, height: int) -> None:
    """Raises InputError for an image that does not decode, of whose picture a part is lost, or of another size.

    A JPEG is decoded at an eighth, which reads all of it, as any size does, and takes two thirds of the time.
    """
    check_jpeg_is_whole(data, name)
    said = jpeg_size(data)
    if said is not None and said != (width, height):
        raise InputError(_wrong_size(name, said, width, height))
    image, reduction = None, REDUCTIONS[0] if said else 1
    if said:
        try:
            image = jpeg_decoder()(data, reduction)
        except (ValueError, OSError) as error:
            if "premature end" in str(error).lower():
                raise InputError(f"{name} is damaged ({error}); replace it") from error
    if image is None:
        image = decode_bgr(data, name, reduction=reduction)
    actual = image.shape[1::-1]
    if actual != (-(-width // reduction), -(-height // reduction)):
        raise InputError(_wrong_size(name, actual, width, height))


def _wrong_size(name: str, actual: tuple[int, ...], width: int, height: int) -> str:
    return f"{name} is {actual[0]}x{actual[1]} px, its annotation says {width}x{height}; correct one of them"
