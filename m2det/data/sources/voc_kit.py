"""Pascal VOC itself as the original trains on it: trainval of 2007 and 2012, tested on 2007's test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from m2det.data.orientation import upright_size
from m2det.data.sources.made import Converted, Pairs, write_annotations
from m2det.data.sources.records import Note
from m2det.data.sources.tree import Tree, stem
from m2det.data.sources.voc_xml import VocImage, coco_object

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
NAME = re.compile(r"\d[\d_]{0,14}", re.ASCII)  # so that an image's and its annotations' ids fit into 64 bits
SETS = {"train": [("VOC2007", "trainval"), ("VOC2012", "trainval")], "val": [("VOC2007", "test")]}
Key = tuple[str, str, str]  # split, year, list


def find_years(used: Mapping[str, Sequence[str]]) -> dict[Key, list[str]]:
    """Return the annotation files of each year's list; none where a split has no list or a name is none of VOC's.

    Args:
        used: annotation files by the list's name, relative to VOCdevkit.
    """
    years = {
        (split, year, name): [*used[listing(year, name)]]
        for split, sets in SETS.items()
        for year, name in sets
        if listing(year, name) in used
    }
    named = all(NAME.fullmatch(stem(xml)) for xmls in years.values() for xml in xmls)
    return years if named and {split for split, _, _ in years} == {*SETS} else {}


def has_its_classes(years: Mapping[Key, Mapping[str, VocImage]]) -> bool:
    """Return whether all objects are of VOC's classes."""
    return all(o.name in CLASSES for images in years.values() for image in images.values() for o in image.objects)


def convert_years(tree: Tree, years: Mapping[Key, Mapping[str, VocImage]], target: Path) -> Converted:
    """Write VOC itself: target/annotations/{YEAR}_{LIST}.json, where an image's id is its name's digits."""
    pairs: Pairs = {split: [] for split in SETS}
    for (split, year, name), images in years.items():
        content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
        for xml, image in images.items():
            image_id, file_name = int(stem(xml).replace("_", "")), f"{stem(xml)}.jpg"
            width, height = image.size or tree.measure(f"{year}/JPEGImages/{file_name}", upright_size)
            content["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
            content["annotations"] += [
                {"id": image_id * 1000 + i, "image_id": image_id, **coco_object(each, CLASSES.index(each.name) + 1)}
                for i, each in enumerate(image.objects)
            ]
        content["categories"] = [{"id": i, "name": each} for i, each in enumerate(CLASSES, 1)]
        pairs[split].append((write_annotations(target, f"{year}_{name}", content), f"{year}/JPEGImages"))
    missing = [(split, listing(*each)) for split, sets in SETS.items() for each in sets if (split, *each) not in years]
    notes = [Note("voc-year", 1, f"{file} is missing: {split} is made without it") for split, file in missing]
    return Converted(pairs, notes=notes)


def missing_split(tree: Tree) -> str:
    """Return a sentence for the first split without a list, where another one has VOC's; empty if none is VOC's."""
    is_voc = any(tree.has(listing(*each)) for sets in SETS.values() for each in sets)
    for sets in SETS.values():
        if is_voc and not any(tree.has(listing(*each)) for each in sets):
            listings = " or ".join(listing(*each) for each in sets)
            return f"{tree.root} has no {listings}; data.root must be VOCdevkit, where VOC2007 and VOC2012 are"
    return ""


def listing(year: str, name: str) -> str:
    return f"{year}/ImageSets/Main/{name}.txt"
