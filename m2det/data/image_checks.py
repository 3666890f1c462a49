"""Checks that an image file is whole and of the annotated size."""

from __future__ import annotations

from m2det.data.jpeg import REDUCTIONS, decode_bgr, jpeg_decoder
from m2det.data.orientation import JPEG_START, exif_orientation, jpeg_markers, jpeg_size, upright_size
from m2det.errors import InputError


def check_jpeg_is_whole(data: bytes, name: str) -> None:
    """Raise InputError for a JPEG without its end, which decoders fill with grey without an error.

    After the first start-of-scan marker (FF DA) the end-of-image marker (FF D9) must follow, which does not occur in a
    scan's data. Bytes after the end do no harm: cameras append films. A thumbnail's end lies before the scan.
    """
    if not data.startswith(JPEG_START):
        return
    scan = next((offset for marker, offset in jpeg_markers(data) if marker == 0xDA), len(data))
    if data.rfind(b"\xff\xd9", scan) < 0:  # from the back, where the marker mostly is
        raise InputError(f"{name} is truncated (a JPEG without an end); replace it")


def check_header(data: bytes, name: str, width: int, height: int) -> None:
    """Check as check_size does, but a JPEG by its header and end alone; other images are decoded."""
    check_jpeg_is_whole(data, name)
    if jpeg_size(data) is None or upright_size(data) != (width, height):
        check_size(data, name, width, height)


def check_size(data: bytes, name: str, width: int, height: int) -> None:
    """Raise InputError for an image that does not decode, has lost a part of its picture, or is of another size.

    A JPEG is decoded at an eighth, which reads all its bytes, as any size does, and takes two thirds of the time.

    Args:
        data: the image file.
        name: of the image, for the message.
        width: of the upright image as annotated, px.
        height: likewise.
    """
    check_jpeg_is_whole(data, name)
    header_size = upright_size(data) if jpeg_size(data) else None
    if header_size is not None and header_size != (width, height):
        raise InputError(_wrong_size(name, data, header_size, width, height))
    reduction = REDUCTIONS[0] if header_size else 1
    if header_size:
        try:
            if jpeg_decoder()(data, reduction) is not None:
                return
        except (ValueError, OSError) as error:
            if "premature end" in str(error).lower():
                raise InputError(f"{name} is damaged ({error}); replace it") from error
    actual = decode_bgr(data, name, reduction).shape[1::-1]
    if actual != (-(-width // reduction), -(-height // reduction)):
        raise InputError(_wrong_size(name, data, actual, width, height))


def _wrong_size(name: str, data: bytes, actual: tuple[int, ...], width: int, height: int) -> str:
    orientation = exif_orientation(data)
    turned = f", turned as its EXIF orientation {orientation} says" if orientation > 1 else ""
    return f"{name} is {actual[0]}x{actual[1]} px{turned}, its annotation says {width}x{height}; correct one of them"
