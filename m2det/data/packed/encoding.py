"""The encoding of a packed cache's images: as in their files, or faster to read at a cost in disk or detail."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import cv2

from m2det.data.jpeg import RAW, RAW_MARK, decode_bgr
from m2det.data.sources.records import ImageRecord
from m2det.errors import InputError

MAX_SIDE = 65_500  # px, that a JPEG encoder takes and the head of raw pixels can hold
MAX_SAMPLED = 32  # images, from whose size that of all is estimated


@dataclass(frozen=True)
class ImageEncoding:
    """How images are stored; written to the cache's manifest, so that readers know. Boxes stay those of the original.

    images: original (the files' own bytes), jpeg (encoded again) or raw (pixels).
    side: longest side that jpeg and raw keep, px, 0 for any.
    quality: of jpeg, 1 to 100.
    """

    images: str = "original"
    side: int = 0
    quality: int = 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) as stored, of an image of that size, px."""
        longer = max(width, height)
        if self.images == "original" or not self.side or longer <= self.side:
            return width, height
        return max(1, round(width * self.side / longer)), max(1, round(height * self.side / longer))

    @property
    def reducible(self) -> bool:
        """Whether images are decoded faster at a fraction of their size."""
        return self.images != "raw"

    def max_bytes(self, width: int, height: int, file_size: int) -> int:
        """Return an upper bound of a record's bytes; noise as a JPEG may be larger than its pixels."""
        stored_width, stored_height = self.size(width, height)
        raw = RAW.size + 3 * stored_width * stored_height
        return {"original": file_size, "raw": raw, "jpeg": max(file_size, 2 * raw + 4096)}[self.images]

    def encode(self, data: bytes, name: str) -> bytes:
        """Return the record of an image file.

        Raises:
            InputError: the image, which is named, cannot be decoded or is too long.
        """
        if self.images == "original":
            return data
        image = decode_bgr(data, name)
        original_size = image.shape[1::-1]
        size = self.size(*original_size)
        if max(size) > MAX_SIDE:
            raise InputError(
                f"{name} has a side of {max(size)} px, {MAX_SIDE} is the most; set pack.side to that or less"
            )
        if size != original_size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if self.images == "raw":
            return RAW.pack(RAW_MARK, *size) + image.tobytes()
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()
        return data if size == original_size and len(data) <= len(encoded) else encoded

    def expected_bytes(self, records: Sequence[ImageRecord]) -> int:
        """Estimate the bytes of all records on disk from some of them."""
        sizes = []
        for record in records[:: -(-len(records) // MAX_SAMPLED)]:
            with suppress(InputError):  # a bad image is told when it is packed
                sizes.append(len(self.encode(record.read(), record.file_name)))
        return sum(sizes) * len(records) // max(1, len(sizes))
