"""Data sets in YOLO's format, in the layouts that exporters write: names in data.yaml, a text file for each image.

A label file is looked for where ultralytics looks: for images/train/a.jpg at labels/train/a.txt, for any other image
beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname, join

import numpy as np

from m2det.data.orientation import upright_size
from m2det.data.sources.made import Converted, FileFaults, LabelledImage, make_annotations
from m2det.data.sources.records import Note
from m2det.data.sources.split_names import choose_splits, split_of
from m2det.data.sources.tree import Tree, some, stem
from m2det.data.sources.val_share import split_images
from m2det.data.sources.yolo_labels import KEYPOINTS, OUTLINE, Box, read_labels
from m2det.data.sources.yolo_orphans import misnamed_labels, orphan_labels
from m2det.data.sources.yolo_yaml import YoloNames, find_yamls, read_names
from m2det.errors import InputError

DECIMALS = 4  # of pixels
SLACK = 1.0  # px over an edge: rounding
OVER_EDGE = 0.02  # share of boxes over an edge from which another form is looked for


@dataclass(frozen=True)
class YoloLayout:
    """A data set in YOLO's format.

    names: what data.yaml, or what stands for it, says.
    splits: names of the images of `train` and, where given, `val` and `test`.
    notes: on how the files were found.
    """

    tree: Tree
    names: YoloNames
    splits: dict[str, list[str]]
    notes: list[Note]

    @property
    def saw(self) -> str:
        """What was recognised, and by which files."""
        counts = ", ".join(f"{split} has {len(images)} images" for split, images in self.splits.items())
        return f"YOLO: {self.names.file} names {len(self.names.classes)} classes; {counts}"

    def annotation_files(self) -> list[str]:
        """Return the names of the file of class names, the lists of images and the label files."""
        labels = {label_of(image, self.tree) for images in self.splits.values() for image in images}
        return sorted({self.names.file, *self.names.lists, *filter(self.tree.has, labels)})

    def convert(self, target: Path, val_share: float, skip: bool = False) -> Converted:
        """Write the annotation files below target/annotations; arguments as of Layout.

        Raises:
            InputError: an image or a label file is wrong, or no image has a label file.
        """
        kinds: Counter[str] = Counter()
        images = dict.fromkeys(image for split in self.splits.values() for image in split)
        faults = FileFaults(skip)
        for absent in self.names.absent:
            faults.add(absent)
        contents = faults.read_each(images, lambda image: self._label(image, kinds))
        notes = [*self.notes, *self._notes(kinds, faults), *faults.notes()]
        faults.require_none()
        notes += _corners(contents.values())
        labelled = {split: [contents[i] for i in images if i in contents] for split, images in self.splits.items()}
        if "val" not in labelled:
            labelled, note = split_images(labelled["train"], self.tree, val_share)
            notes.append(note)
        classes = {number + 1: name for number, name in self.names.classes.items()}
        return Converted(make_annotations(target, labelled, classes), notes=notes, upright=True)

    def _label(self, image: str, kinds: Counter[str]) -> LabelledImage:
        width, height = self.tree.measure(image, upright_size)
        file = label_of(image, self.tree)
        boxes = []
        if self.tree.has(file):
            path = str(self.tree.root / file)
            boxes = read_labels(self.tree.read(file), path, self.names.classes, self.names.keypoints, kinds)
        return LabelledImage(image, width, height, [_object(box, width, height) for box in boxes])

    def _notes(self, kinds: Counter[str], faults: FileFaults) -> list[Note]:
        images = [*dict.fromkeys(image for split in self.splits.values() for image in split)]
        unlabelled = {image: label for image in images if not self.tree.has(label := label_of(image, self.tree))}
        used = {label_of(image, self.tree) for image in (*self.tree.images, *images)}
        orphans = orphan_labels(self.tree, used, {self.names.file, *self.names.lists})
        misnamed = [*misnamed_labels(self.tree, orphans, unlabelled)]
        for fault in misnamed:
            faults.add(fault)
        if len(unlabelled) == len(images) and not misnamed:
            raise InputError(
                f"none of the {len(images)} images below {self.tree.root} has a label file; {images[0]} would have "
                f"{label_of(images[0], self.tree)}; folders have to be called images and labels"
            )
        both = {*self.splits["train"]} & {*self.splits.get("val", [])}
        found = [
            Note(
                "labels-without-image",
                len(orphans),
                f"{len(orphans)} label files have no image of their name, not used: {some(orphans)}",
                tuple(f"{self.tree.root / name} has no image of its name" for name in orphans),
            ),
            Note("outlines", kinds[OUTLINE], f"{kinds[OUTLINE]} objects are outlines: their boxes are used"),
            Note("keypoints", kinds[KEYPOINTS], f"the keypoints of {kinds[KEYPOINTS]} objects are left out"),
            Note(
                "unlabelled-images",
                len(unlabelled),
                f"{len(unlabelled)} images have no label file and so no objects: {some(list(unlabelled))}",
            ),
            Note(
                "image-in-both-splits", len(both), f"{len(both)} images are in train and in val: {some(sorted(both))}"
            ),
        ]
        return [note for note in found if note.count]


def looks_like_yolo(tree: Tree) -> str:
    """Return by what a folder seems to be in YOLO's format; empty if it does not."""
    if found := find_yamls(tree):
        return f"{found[0]} has `names`"
    labelled = next((image for image in tree.images if tree.has(label_of(image, tree))), "")
    return f"{label_of(labelled, tree)} is beside {labelled}" if labelled else ""


def find_yolo(tree: Tree, with_test: bool = False) -> YoloLayout:
    """Return where the files are, of test where asked. Raises InputError if something is missing or ambiguous."""
    names = read_names(tree)
    found, where = names.images or _splits_by_folders(tree), str(tree.root)
    if names.images:
        where = f"{tree.root / names.file}"
    splits, notes = choose_splits({split: sorted({*images}) for split, images in found.items()}, where, with_test)
    return YoloLayout(tree, names, splits, [*names.notes, *notes])


def label_of(image: str, tree: Tree) -> str:
    """Return the name of an image's label file, whether or not that exists."""
    parts, beside = image.split("/"), join(dirname(image), f"{stem(image)}.txt")
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            label = join(*parts[:place], "labels", *parts[place + 1 : -1], f"{stem(image)}.txt")
            return beside if tree.has(beside) and not tree.has(label) else label
    return beside


def _splits_by_folders(tree: Tree) -> dict[str, list[str]]:
    """Return the images by what their folders are called; all are for training where no folder says it."""
    splits = defaultdict(list)
    for image in tree.images:
        splits[split_of(dirname(image))].append(image)
    if "train" in splits:
        return splits
    return {"train": splits.pop("", [])} | splits


def _corners(images: Iterable[LabelledImage]) -> list[Note]:
    """Return a note if labels look like corners: many boxes reach over an edge, and as corners all lie inside."""
    rows = [(*each["bbox"], image.width, image.height) for image in images for each in image.objects]
    x, y, w, h, width, height = np.array(rows, np.float64).reshape(-1, 6).T
    over = (x < -SLACK) | (y < -SLACK) | (x + w > width + SLACK) | (y + h > height + SLACK)
    if not len(rows) or over.mean() < OVER_EDGE or ((w <= x + w / 2) | (h <= y + h / 2)).any():
        return []
    text = (
        f"{over.sum()} of {len(rows)} boxes reach over an edge of their image; as x1 y1 x2 y2 all lie inside: labels "
        "look like corners, but YOLO's are the center, width and height"
    )
    return [Note("corner-labels", int(over.sum()), text)]


def _object(box: Box, width: int, height: int) -> dict[str, object]:
    scaled = (box.x1 * width, box.y1 * height, (box.x2 - box.x1) * width, (box.y2 - box.y1) * height)
    x, y, w, h = (round(value, DECIMALS) for value in scaled)
    return {"category_id": box.label + 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
