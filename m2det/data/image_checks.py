"""Checks that an image file is whole and of the annotated size."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from m2det.data.jpeg import JPEG_START, REDUCTIONS, decode_bgr, jpeg_decoder
from m2det.errors import InputError


def check_jpeg_is_whole(data: bytes, name: str) -> None:
    """Raise InputError for a JPEG without its end, which decoders fill with grey without an error.

    After the first start-of-scan marker (FF DA) the end-of-image marker (FF D9) must follow, which does not occur in a
    scan's data. Bytes after the end do no harm: cameras append films. A thumbnail's end lies before the scan.
    """
    if not data.startswith(JPEG_START):
        return
    scan = next((offset for marker, offset in _markers(data) if marker == 0xDA), len(data))
    if data.rfind(b"\xff\xd9", scan) < 0:  # from the back, where the marker mostly is
        raise InputError(f"{name} is truncated (a JPEG without an end); replace it")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG's frame header (ITU T.81, B.2.2), px; None if the data are no JPEG."""
    for marker, offset in _markers(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and offset + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, offset + 3)
            return width, height
    return None


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield a JPEG's markers up to its first scan, each with the offset after it; stray and fill bytes are skipped."""
    offset = data.find(b"\xff", 2) if data.startswith(JPEG_START) else -1
    while 0 <= offset < len(data) - 3:
        marker = data[offset + 1]
        if marker not in (0x00, 0x01, *range(0xD0, 0xDA), 0xFF):  # those have no segment
            yield marker, offset + 2
            if marker == 0xDA:
                return
            offset += 1 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        offset = data.find(b"\xff", offset + 1)


def check_header(data: bytes, name: str, width: int, height: int) -> None:
    """Check as check_size does, but a JPEG by its header and end alone; other images are decoded."""
    check_jpeg_is_whole(data, name)
    if jpeg_size(data) != (width, height):
        check_size(data, name, width, height)


def check_size(data: bytes, name: str, width: int, height: int) -> None:
    """Raise InputError for an image that does not decode, has lost a part of its picture, or is of another size.

    A JPEG is decoded at an eighth, which reads all its bytes, as any size does, and takes two thirds of the time.

    Args:
        data: the image file.
        name: of the image, for the message.
        width: as annotated, px.
        height: as annotated, px.
    """
    check_jpeg_is_whole(data, name)
    header_size = jpeg_size(data)
    if header_size is not None and header_size != (width, height):
        raise InputError(_wrong_size(name, header_size, width, height))
    image, reduction = None, REDUCTIONS[0] if header_size else 1
    if header_size:
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
