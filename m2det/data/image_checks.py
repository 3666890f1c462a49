"""Checks that an image file is whole and of the annotated size."""

from __future__ import annotations

from collections.abc import Iterator

from m2det.data.jpeg import _JPEG_START, REDUCTIONS, decode_bgr, jpeg_decoder
from m2det.errors import InputError


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
