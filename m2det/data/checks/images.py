"""Doubts about image files: missing, bad, turned by EXIF, or with pixels that use little of their range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from m2det.data.findings import Finding
from m2det.data.inspection import Fault, Inspector
from m2det.data.jpeg import REDUCTIONS, decode_bgr
from m2det.data.orientation import JPEG_START
from m2det.data.sources.missing import explain_missing
from m2det.data.sources.records import ImageRecord
from m2det.data.upright import EXCHANGED, REMEDY, STORED, UNCLEAR, UPRIGHT
from m2det.errors import InputError

MAX_DECODED = 100  # images whose pixels are looked at
NARROW = 64  # of 256 grey levels, between the darkest and the brightest thousandth of the pixels


def check_missing(missing: Sequence[ImageRecord], total: int, split: str) -> Iterator[Finding]:
    """Yield which of a split's images do not exist."""
    if missing:
        names_in: dict[Path, list[str]] = {}
        for record in missing:
            names_in.setdefault(record.folder.path, []).append(record.file_name)
        similar = "; ".join(filter(None, (explain_missing(folder, names) for folder, names in names_in.items())))
        advice = similar or "check names and the image folder, or remove them from the annotations"
        text = f"{len(missing)} of {total} images do not exist; {advice}"
        names = tuple(str(record.path) for record in missing)
        yield Finding("missing-images", text, len(missing), names, split)


def check_faults(faults: Sequence[Fault], read: int, split: str) -> Iterator[Finding]:
    """Yield the images that pack would refuse, of those that were read."""
    bad = [fault.text for fault in faults if fault.kind == "bad"]
    if bad:
        text = f"{len(bad)} of {read} images that were read cannot be used"
        yield Finding("bad-images", text, len(bad), tuple(bad), split)


def check_orientation(inspector: Inspector, read: int, split: str) -> Iterator[Finding]:
    """Yield how many of the images read EXIF turns, and which of their pixels boxes are taken to be of."""
    for code, kinds, text in (
        ("oriented", (UPRIGHT, EXCHANGED), "they are turned upright for training, validation and detection alike"),
        (
            "orientation-stored",
            (STORED,),
            "their annotations give the size as stored, so stored pixels are used; if boxes were drawn on the image "
            "as shown, set data.orientation: exif",
        ),
        (
            "orientation-unclear",
            (UNCLEAR,),
            f"the size and boxes of their annotations do not tell whether boxes are of the turned image; {REMEDY}",
        ),
    ):
        by_orientation = Counter[int]()
        for (orientation, kind), number in inspector.pixels.items():
            if kind in kinds:
                by_orientation[orientation] += number
        total = by_orientation.total()
        if total:
            which = ", ".join(f"{orientation} ({number})" for orientation, number in sorted(by_orientation.items()))
            which = f"{next(iter(by_orientation))}" if len(by_orientation) == 1 else which
            sentence = f"{total} of {read} images carry EXIF orientation {which}{inspector.example}: {text}"
            code = "oriented" if code == "orientation-stored" and inspector.setting == "stored" else code
            yield Finding(code, sentence, total, (), split)


def check_range(records: Sequence[ImageRecord], split: str) -> Iterator[Finding]:
    """Yield whether most images use a small part of the 256 grey levels."""
    spans: list[tuple[float, float]] = []
    for record in records[:: -(-len(records) // MAX_DECODED) or 1]:
        try:
            data = record.read()
            reduction = REDUCTIONS[0] if data.startswith(JPEG_START) else 1  # averages hide the range of noise
            low, high = np.percentile(decode_bgr(data, record.file_name, reduction), (0.1, 99.9))
        except InputError:  # told elsewhere
            continue
        spans.append((low, high))
    narrow = [(low, high) for low, high in spans if high - low < NARROW]
    if len(narrow) > len(spans) / 2:
        low, high = np.median(narrow, axis=0)
        text = (
            f"{len(narrow)} of {len(spans)} images use few grey levels, {low:.0f} to {high:.0f} of 0 to 255 in the "
            "median: images of 10 to 16 bits or of numbered regions look so; scale them to 8 bits"
        )
        yield Finding("narrow-range", text, len(narrow), (), split)
