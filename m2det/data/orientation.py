"""The orientation that a camera notes in an image file (EXIF 2.32, 4.6.4, tag 274), and the upright image.

Label tools and viewers show a photograph upright; the pixels in its file may lie on their side, or be mirrored.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*")
TAG = 274
SIDEWAYS = range(5, 9)  # orientations whose upright image has width and height exchanged
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # stored pixels [H,W,3] -> upright pixels
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}


def exif_orientation(data: bytes) -> int:
    """Return the orientation, 1 (as stored) to 8, of a JPEG, PNG, WebP or TIFF; 1 where the file notes none."""
    return next((value for _, _, value in _tags(data)), 1)


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels [H,W,3] as the orientation wants them shown; contiguous."""
    return np.ascontiguousarray(TURNS[orientation](image))


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of the pixels in the file, px, from its header; None if the data are no image."""
    if data.startswith(JPEG_START):
        return jpeg_size(data)
    from PIL import Image, TiffImagePlugin  # reads the headers of all kinds

    no_image = (OSError, ValueError, SyntaxError, KeyError, TypeError, Image.DecompressionBombError)
    try:
        with Image.open(BytesIO(data)) as image:
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose `size` is the upright one
                return int(image.tag_v2[256]), int(image.tag_v2[257])
            return image.size
    except no_image:
        return None


def upright_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of the upright image, px; None if the data are no image."""
    size = stored_size(data)
    return size and (size[::-1] if exif_orientation(data) in SIDEWAYS else size)


def as_stored(data: bytes) -> bytes:
    """Return the same file without an orientation, for pixels that are right as stored; no pixel is encoded again."""
    copy = bytearray(data)
    for offset, order, _ in _tags(data):
        struct.pack_into(f"{order}H", copy, offset, 1)
        _sum_png_chunk(copy, offset)
    return bytes(copy)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG's frame header (ITU T.81, B.2.2), px; None if the data are no JPEG."""
    for marker, offset in jpeg_markers(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and offset + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, offset + 3)
            return width, height
    return None


def jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
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


def _tags(data: bytes) -> Iterator[tuple[int, str, int]]:
    """Yield the offset, the byte order of struct and the value of each valid orientation that decoders would heed."""
    for start in _tiffs(data):
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[start : start + 4], "")
        if not order or start + 8 > len(data):
            continue
        folder = start + struct.unpack_from(f"{order}I", data, start + 4)[0]
        count = struct.unpack_from(f"{order}H", data, folder)[0] if folder + 2 <= len(data) else 0
        for entry in range(folder + 2, min(folder + 2 + 12 * count, len(data) - 11), 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == TAG and kind == 3 and 1 <= value <= 8:  # kind 3: 16 bits
                yield entry + 8, order, value


def _tiffs(data: bytes) -> Iterator[int]:
    """Yield where the TIFF structures that hold EXIF begin: one in most files, or none."""
    if data.startswith(JPEG_START):
        segments = (offset + 2 for marker, offset in jpeg_markers(data) if marker == 0xE1)
        yield from (start + 6 for start in segments if data[start : start + 6] == b"Exif\0\0")
    elif data.startswith(PNG_START):
        yield from (start for name, start in _chunks(data, len(PNG_START), ">I4s", 4) if name == b"eXIf")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        starts = (start for name, start in _chunks(data, 12, "<4sI", 0) if name == b"EXIF")
        yield from (start + 6 if data[start : start + 6] == b"Exif\0\0" else start for start in starts)
    elif data.startswith(TIFF_STARTS):
        yield 0


def _chunks(data: bytes, offset: int, head: str, after: int) -> Iterator[tuple[bytes, int]]:
    """Yield the name of each chunk, and where its contents begin.

    Args:
        data: a PNG or WebP.
        offset: of the first chunk.
        head: of a chunk, for struct: its name and the length of its contents.
        after: bytes behind the contents.
    """
    while offset + 8 <= len(data):
        name, length = sorted(struct.unpack_from(head, data, offset), key=lambda part: isinstance(part, int))
        yield name, offset + 8
        offset += 8 + length + after + (length % 2 if not after else 0)  # WebP's chunks have even lengths


def _sum_png_chunk(data: bytearray, offset: int) -> None:
    """Write the checksum again of the PNG chunk that holds the offset."""
    if data.startswith(PNG_START):
        start = max(start for _, start in _chunks(bytes(data), len(PNG_START), ">I4s", 4) if start <= offset)
        end = start + int.from_bytes(data[start - 8 : start - 4], "big")
        if end + 4 <= len(data):
            struct.pack_into(">I", data, end, zlib.crc32(data[start - 4 : end]))
