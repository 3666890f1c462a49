"""Every image of a split read and checked, and all that are bad told, not the first alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from m2det.data.image_checks import check_header, check_size
from m2det.data.orientation import exif_orientation, stored_size
from m2det.data.sources.fault_list import MAX_NAMED
from m2det.data.sources.records import ImageRecord, Split
from m2det.data.upright import EXCHANGED, REMEDY, UNCLEAR, UPRIGHT, Setting, extents, pixels_of, which_pixels
from m2det.errors import InputError

CHECKS = {"decode": check_size, "header": check_header}


@dataclass(frozen=True)
class Fault:
    """An image that cannot be used as it is.

    index: of the record. kind: "bad", UNCLEAR or EXCHANGED. text: a sentence.
    """

    index: int
    kind: str
    text: str


class ImageFaults(InputError):
    """Images cannot be used as they are."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        sentences = describe_faults(faults)
        count = f"{len(faults)} images cannot be used: " if len(sentences) > 1 else ""
        super().__init__(count + "; ".join(sentences[:MAX_NAMED]))


def describe_faults(faults: Sequence[Fault]) -> list[str]:
    """Return a sentence for each bad image, and before them one for all whose pixels are not clear."""
    unclear = [fault.text for fault in faults if fault.kind != "bad"]
    if unclear:
        unclear = [
            f"{len(unclear)} images carry an EXIF orientation, the first is {unclear[0]}, and neither size nor boxes "
            f"of their annotations tell whether boxes are of the image as shown or as stored; {REMEDY}"
        ]
    return unclear + [fault.text for fault in faults if fault.kind == "bad"]


class Inspector:
    """Reads a split's images, each with what is to be known of it.

    Attributes:
        pixels: how many of the images read carry an EXIF orientation, by that and by which pixels their boxes are of.
        example: a phrase on one of them.
    """

    def __init__(self, split: Split, verify: str, setting: Setting) -> None:
        """Args: verify: a key of CHECKS. setting: data.orientation."""
        self.split, self.setting, self.check = split, setting, CHECKS[verify]
        self.pixels: Counter[tuple[int, str]] = Counter()
        self.example = ""

    @cached_property
    def _extents(self) -> NDArray[np.float64]:
        return extents(self.split)

    def read(self, index: int) -> bytes:
        """Return an image file that decodes to the pixels its boxes are of. Raises ImageFaults."""
        record = self.split.records[index]
        name = f"image {record.image_id} ({record.path})"
        try:
            data = _read(record)
            kind = which_pixels(data, record, lambda: self._extents[index], self.setting)
            if (orientation := exif_orientation(data)) > 1:
                self.pixels[orientation, kind] += 1
                self.example = self.example or _describe_turn(data, record, kind)
            if kind in (UNCLEAR, EXCHANGED):
                raise ImageFaults([Fault(index, kind, f"{name} with orientation {orientation}")])
            data = pixels_of(data, kind)
            self.check(data, name, record.width, record.height)
        except ImageFaults:
            raise
        except InputError as error:
            raise ImageFaults([Fault(index, "bad", str(error))]) from error
        return data

    def faults(self, indices: Iterable[int], threads: int) -> list[Fault]:
        """Return the faults of images, in order; read by several threads."""
        with ThreadPoolExecutor(threads) as pool:
            return [fault for faults in pool.map(self._faults_of, indices) for fault in faults]

    def _faults_of(self, index: int) -> list[Fault]:
        try:
            self.read(index)
        except ImageFaults as error:
            return error.faults
        return []


def _describe_turn(data: bytes, record: ImageRecord, kind: str) -> str:
    orientation, (width, height) = exif_orientation(data), stored_size(data) or (0, 0)
    stored, annotated = f"stored {width}x{height}", f"{record.width}x{record.height}"
    if kind == UPRIGHT and stored != annotated:
        turned = f"turned by EXIF orientation {orientation} to the {annotated} of its annotation"
        return f" (such as {record.file_name}: {stored} and {turned})"
    return f" (such as {record.file_name}: {stored}, annotated {annotated})"


def _read(record: ImageRecord) -> bytes:
    try:
        record.path.stat()
    except OSError as error:  # a name too long for the disk, say
        raise InputError(
            f"image {record.image_id} is missing: {record.path} does not exist; put the file there, or "
            "remove it from the annotations and run `dvc repro -f data`"
        ) from error
    return record.read()
