"""Annotation files in COCO's format that the stage `data` makes: of other formats, or of a split that it cuts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from m2det.data.sources.fault_list import MAX_NAMED, BadFiles, write_list
from m2det.data.sources.image_folder import name_fault
from m2det.data.sources.records import Note
from m2det.data.sources.tree import BadImage
from m2det.errors import InputError
from m2det.text import printable

File = TypeVar("File")
Content = TypeVar("Content")
Pairs = dict[str, list[tuple[str, str]]]  # each split's annotation files, each with the folder of its images


class LabelledImage(NamedTuple):
    """An image as its labels describe it.

    file_name: relative to the data set's root. width, height: as labelled, px.
    objects: COCO's annotations without ids: category_id, bbox (xywh, px) and others.
    """

    file_name: str
    width: int
    height: int
    objects: list[dict[str, Any]]


@dataclass(frozen=True)
class Converted:
    """What the stage `data` lists in its manifest.

    pairs: image folders are relative to the data set's root.
    made: whether the annotation files were made and are relative to the stage's folder; else they are the user's.
    notes: what was decided or left out.
    upright: whether boxes are of the images as shown, by the format's own rule.
    """

    pairs: Pairs
    made: bool = True
    upright: bool = False
    notes: list[Note] = field(default_factory=list)


class Layout(Protocol):
    """Where a data set's files are, known by their names; `m2det.data.sources.detect_format` finds it."""

    @property
    def saw(self) -> str:
        """What was recognised, and by which files."""
        ...

    def convert(self, target: Path, val_share: float, skip: bool = False) -> Converted:
        """Write what annotation files have to be made below target/annotations, and list all of them.

        Args:
            target: the stage's folder.
            val_share: of the images that are for validation, where no others are given for that.
            skip: leave out images that cannot be read, with a note.
        """
        ...

    def annotation_files(self) -> list[str]:
        """Return the names of all files that hold labels, class names or lists of images."""
        ...


class FileFaults:
    """What is wrong with a data set's files, collected so that all is told at once.

    skipped: sentences on images that are left out.
    """

    def __init__(self, skip: bool) -> None:
        """Args: skip: leave out images that are missing or cannot be read, and do not refuse them."""
        self._skip = skip
        self._faults: list[InputError] = []
        self.skipped: list[str] = []

    def add(self, fault: InputError) -> None:
        """Add a fault, or leave out the image that it is about."""
        if isinstance(fault, BadImage) and self._skip:
            self.skipped.append(str(fault))
        else:
            self._faults.append(fault)

    def read_each(self, files: Iterable[File], read: Callable[[File], Content]) -> dict[File, Content]:
        """Return what `read` makes of each file, but of those that are wrong."""
        contents: dict[File, Content] = {}
        for file in files:
            try:
                contents[file] = read(file)
            except InputError as error:
                self.add(error)
        return contents

    def require_none(self) -> None:
        """Raise the fault, or BadFiles if there are several."""
        if len(self._faults) == 1:
            raise self._faults[0]
        if self._faults:
            skippable = all(isinstance(fault, BadImage) for fault in self._faults)
            advice = "correct them" + ", or set pack.on_bad_image: skip" * skippable
            raise BadFiles([str(fault) for fault in self._faults], f"{len(self._faults)} files are wrong", advice)

    def notes(self) -> list[Note]:
        """Return the note on images that are left out, if any is."""
        count = len(self.skipped)
        text = f"{count} images are missing or cannot be read, and are left out (pack.on_bad_image)"
        return [Note("skipped-images", count, text, tuple(self.skipped))] if count else []


def tell_notes(notes: Iterable[Note], path: Path, say: Callable[[str], object] = print) -> None:
    """Tell notes and the first of their examples, and write all examples to a file.

    Args:
        notes: to tell.
        path: the file to write, if there are examples.
        say: is called with each line.
    """
    path.unlink(missing_ok=True)
    lists: list[str] = []
    for note in notes:
        say(printable(note.text))
        lists += note.examples
        for example in note.examples[:MAX_NAMED]:
            say(printable(f"  {example}"))
    if lists:
        write_list(lists, path)
        say(printable(f"{path} lists all {len(lists)} of them"))


def make_annotations(target: Path, splits: Mapping[str, Sequence[LabelledImage]], classes: Mapping[int, str]) -> Pairs:
    """Write target/annotations/SPLIT.json for each split; image ids count from 1 over all of them.

    Args:
        target: the stage's folder.
        splits: by name.
        classes: names by category id.

    Raises:
        InputError: a split has no images, or one has a name that cannot be.
    """
    categories = [{"id": number, "name": name} for number, name in sorted(classes.items())]
    pairs: Pairs = {}
    first = 1
    for split, images in splits.items():
        if not images:
            raise InputError(f"no image of {split} is left: all are missing or cannot be read; give others")
        content = _content(images, first) | {"categories": categories}
        pairs[split] = [(write_annotations(target, split, content), ".")]
        first += len(images)
    return pairs


def write_annotations(target: Path, name: str, content: Mapping[str, Any]) -> str:
    """Write target/annotations/NAME.json and return its path relative to the target."""
    path = target / "annotations" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path.relative_to(target))


def _content(images: Sequence[LabelledImage], first: int) -> dict[str, list[dict[str, Any]]]:
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for image_id, image in enumerate(images, first):
        if fault := name_fault(image.file_name):
            raise InputError(f"an image is called {image.file_name!r}, {fault}; rename it")
        size = {"width": image.width, "height": image.height}
        content["images"].append({"id": image_id, "file_name": image.file_name, **size})
        for each in image.objects:
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": image_id, **each})
    return content
