"""What checks of a data set find: kinds with a code that never changes, and sentences with the numbers they rest on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from m2det.data.sources.records import Note
from m2det.text import printable

ERROR, WARNING, INFO = "error", "warning", "info"
MAX_EXAMPLES = 20
CODES = {  # code -> severity, meaning; docs/data.md has the same table
    "unreadable": (ERROR, "an annotation file or folder cannot be read, or is not in its format"),
    "no-box": (ERROR, "no box to train on"),
    "missing-images": (ERROR, "images that annotations name do not exist"),
    "bad-images": (ERROR, "images are damaged, empty, no images, or of another size than annotated"),
    "skipped-images": (WARNING, "as missing-images or bad-images, where pack.on_bad_image is skip"),
    "orientation-unclear": (ERROR, "images are shown turned by EXIF, and nothing tells which pixels boxes are of"),
    "orientation-stored": (WARNING, "images are shown turned by EXIF, but annotations give the stored size"),
    "oriented": (INFO, "images are shown turned by EXIF, as their annotations are"),
    "corner-boxes": (WARNING, "boxes look like x1 y1 x2 y2"),
    "center-boxes": (WARNING, "boxes look like center x, center y, width, height"),
    "normalized-boxes": (WARNING, "boxes look like fractions of the image"),
    "over-edge": (WARNING, "a large share of boxes reaches over an edge"),
    "area-above-box": (WARNING, "areas are larger than width x height"),
    "repeated-boxes": (WARNING, "the same box of the same class occurs twice in an image"),
    "crowded": (WARNING, "an image has more objects of a class than evaluation keeps"),
    "class-without-box": (WARNING, "a class has no box"),
    "class-only-in-val": (WARNING, "a class has boxes in validation and none in training"),
    "similar-classes": (WARNING, "names of classes differ only in case, spaces, hyphens or Unicode form"),
    "val-without-box": (WARNING, "validation has no box: AP cannot be measured"),
    "image-in-both": (WARNING, "the same image is in training and validation"),
    "image-repeated": (WARNING, "one image has several ids"),
    "narrow-range": (WARNING, "pixels use a small part of their range"),
    "no-model-fits": (WARNING, "no model's priors match the boxes"),
    "unnamed-images": (INFO, "images in the folder that no annotation names"),
    "note": (INFO, "what reading has decided or left out"),
}


@dataclass(frozen=True)
class Finding:
    """One kind of fault or doubt in one split.

    Attributes:
        code: a key of CODES, or of a note of reading.
        message: a sentence with the numbers it rests on, and what to do.
        count: of the images, boxes or classes that it is about.
        examples: of them, as sentences or names; of errors all.
        split: its name; empty for what concerns several.
    """

    code: str
    message: str
    count: int
    examples: tuple[str, ...] = ()
    split: str = ""

    @property
    def severity(self) -> str:
        """ERROR (the data cannot be used so), WARNING (a doubt) or INFO."""
        return CODES.get(self.code, CODES["note"])[0]

    def as_dict(self) -> dict[str, object]:
        """Return the finding for JSON."""
        keys = ("code", "severity", "split", "count", "message")
        return {key: getattr(self, key) for key in keys} | {"examples": list(self.examples)}

    def __str__(self) -> str:
        where = f"{self.split}: " if self.split else ""
        text = printable(f"{self.severity}: {where}{self.message} [{self.code}]")
        listed = self.examples[:MAX_EXAMPLES] if self.severity == ERROR else ()
        rest = f"\n  and {len(self.examples) - MAX_EXAMPLES} more" if len(self.examples) > MAX_EXAMPLES else ""
        return text + "".join(f"\n  {printable(example)}" for example in listed) + (rest if listed else "")


def from_notes(notes: Iterable[Note], split: str) -> list[Finding]:
    """Return what reading has noted as findings."""
    return [Finding(note.code, note.text, note.count, note.examples, split) for note in notes]


def worst(findings: Sequence[Finding]) -> str:
    """Return the worst severity, or an empty text."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in (ERROR, WARNING, INFO) if severity in found), "")
