"""What `m2det detect` writes for each picture or frame, as it goes: pictures, COCO results, YOLO labels, crops."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import cv2

from m2det.detect.detections import Detections
from m2det.errors import InputError, explain_disk_errors
from m2det.files.whole import write_whole
from m2det.text import printable

CLASS_FOLDER_LENGTH = 60  # characters: a name may be longer than a folder's can be


class Output:
    """The null object: writes nothing."""

    def write(self, name: Path, found: Detections, fields: Mapping[str, Any]) -> None:
        """Write what was found.

        Args:
            name: Of the picture or frame, relative to the folder of results, without suffix.
            found: In this picture.
            fields: Of each entry of a results file: image_id, file_name and perhaps frame.
        """

    def close(self) -> None:
        """Complete the files, also after Ctrl-C."""


class DrawnPictures(Output):
    """folder/NAME.jpg with boxes, names and scores."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: Path, found: Detections, fields: Mapping[str, Any]) -> None:  # noqa: ARG002
        found.save(picture_path(self._folder, name))


class CocoResults(Output):
    """A results file in COCO's format, which is whole JSON after each picture."""

    def __init__(self, path: Path | None, category_ids: Mapping[int, int]) -> None:
        """Begin the file.

        Args:
            path: Of the file; None for stdout, whose array ends with `close`.
            category_ids: In the file, by those of the model.
        """
        self._path, self._category_ids, self._begun = path, category_ids, False
        self._file: IO[str] = sys.stdout
        if path is not None:
            with explain_disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # a link is replaced, not followed
                self._file = path.open("x", encoding="utf-8")
        self._append("[")
        self._end()

    def write(self, name: Path, found: Detections, fields: Mapping[str, Any]) -> None:  # noqa: ARG002
        entries = found.to_coco(fields["image_id"])
        for entry in entries:
            ids = {"image_id": entry["image_id"], "category_id": self._category_ids[entry["category_id"]]}
            self._append(("," if self._begun else "") + "\n" + json.dumps(entry | ids | dict(fields)))
            self._begun = True
        self._end()

    def close(self) -> None:
        if self._path is None:
            self._append("\n]\n")
            with explain_disk_errors(Path("stdout")):
                self._file.flush()
        else:
            with self._file:
                self._end()  # Ctrl-C may have come between an entry and the end

    def _append(self, text: str) -> None:
        with explain_disk_errors(self._path or Path("stdout")):
            self._file.write(text)

    def _end(self) -> None:
        """End the array in a file, so that readers and a kill find whole JSON; the next entry overwrites the end."""
        if self._path is None:
            return
        with explain_disk_errors(self._path):
            position = self._file.tell()
            self._file.write("\n]\n")
            self._file.flush()
            self._file.seek(position)


class YoloLabels(Output):
    """folder/labels/NAME.txt, a line per object: class from 0, x and y of the centre, w, h in [0,1], score."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "labels"

    def write(self, name: Path, found: Detections, fields: Mapping[str, Any]) -> None:  # noqa: ARG002
        width, height = found.size
        lines = []
        for (x1, y1, x2, y2), score, i in zip(found.xyxy, found.confidence, found.class_id, strict=True):
            numbers = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, score
            lines.append(" ".join([str(i), *(f"{number:.6g}" for number in numbers)]) + "\n")
        write_whole(_with_suffix(self._folder / name, ".txt"), "".join(lines))


class Crops(Output):
    """folder/crops/CLASS/NAME_K.jpg, the K-th object of the picture."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "crops"

    def write(self, name: Path, found: Detections, fields: Mapping[str, Any]) -> None:  # noqa: ARG002
        for k, (box, class_name) in enumerate(zip(found.xyxy, found.data["class_name"], strict=True), 1):
            x1, y1, x2, y2 = (int(value) for value in box)
            crop = found.image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
            path = self._folder / folder_name(str(class_name)) / name.parent / f"{name.name}_{k}.jpg"
            write_whole(path, cv2.imencode(".jpg", crop)[1].tobytes())


def picture_path(folder: Path, name: Path) -> Path:
    """Return where the drawn picture of this name goes."""
    return _with_suffix(folder / name, ".jpg")


def folder_name(class_name: str) -> str:
    """Return a class's name as that of a folder: without separators, dots in front, or what a disk cannot have."""
    text = printable(class_name).replace("/", "_").replace("\\", "_").lstrip(".")
    return text[:CLASS_FOLDER_LENGTH] or "_"


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def file_name_text(path: Path) -> str:
    """Return a file's path with bytes that are not UTF-8 as \\xff: JSON's readers refuse half a surrogate pair."""
    return os.fsencode(path).decode(errors="backslashreplace")


def image_ids_in(annotations: Path) -> dict[str, int]:
    """Return the image ids of a COCO annotation file by file name.

    Raises:
        InputError: the file is no such file, or two images have one name.
    """
    from m2det.data.sources.coco_json import read_coco

    ids: dict[str, int] = {}
    for image in read_coco(annotations, outside=True).images:
        if ids.setdefault(image.file_name, image.id) != image.id:
            raise InputError(f"{annotations}: two images are named {image.file_name}; ids cannot be told by names")
    return ids
