"""A validation set where the user has none: some of the images, chosen by their contents.

The order of the images has no part in the choice, so that the same pictures give the same split on every machine. Files
that hold the same picture stay on one side: the same bytes, a JPEG whose metadata alone differ, and the versions that
Roboflow makes of one picture (NAME.rf.HASH.jpg).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from posixpath import join
from typing import Any

import msgspec

from m2det.data.orientation import jpeg_markers
from m2det.data.sources.coco_json import read_coco
from m2det.data.sources.fault_list import BadFiles
from m2det.data.sources.made import LabelledImage, Pairs, write_annotations
from m2det.data.sources.missing import explain_missing
from m2det.data.sources.records import Note
from m2det.data.sources.tree import Tree, stem
from m2det.errors import InputError

METADATA = (*range(0xE0, 0xF0), 0xFE)  # a JPEG's segments of applications and comments
NO_VALIDATION = "no validation images are given, and data.val_share is 0: set that, such as 0.2, or give some images"


def split_images(
    images: Sequence[LabelledImage], tree: Tree, share: float
) -> tuple[dict[str, list[LabelledImage]], Note]:
    """Return the splits train and val of images that are in one, and a note. Raises InputError as choose_validation."""
    files = ((image.file_name, tree.read(image.file_name)) for image in images)
    chosen = choose_validation(files, share, str(tree.root))
    splits = {
        "train": [image for image in images if image.file_name not in chosen],
        "val": [image for image in images if image.file_name in chosen],
    }
    return splits, _note(len(chosen), len(images))


def split_coco(
    pairs: Sequence[tuple[str, str]], tree: Tree, target: Path, share: float, skip: bool = False
) -> tuple[Pairs, list[Note]]:
    """Write each annotation file as two below target/annotations, and return these and notes.

    Args:
        pairs: of annotation file and image folder, relative to the tree's root.
        tree: the data set.
        target: the stage's folder.
        share: of the images that are for validation.
        skip: let images be missing, which the stage `pack` skips.

    Raises:
        BadFiles: images are missing.
        InputError: an annotation file is wrong, or as choose_validation.
    """
    contents = [read_coco(tree.root / file, tree.outside) for file, _ in pairs]
    names = [join(folder, i.file_name) for c, (_, folder) in zip(contents, pairs, strict=True) for i in c.images]
    present = [name for name in dict.fromkeys(names) if tree.may_read(name) and (tree.root / name).is_file()]
    missing = [name for name in dict.fromkeys(names) if tree.may_read(name) and not (tree.root / name).is_file()]
    if missing and not skip:
        advice = explain_missing(tree.root, missing) or "put them there, or set pack.on_bad_image: skip"
        sentences = [f"{tree.root / name} does not exist" for name in missing]
        named = " and ".join(str(tree.root / file) for file, _ in pairs)
        raise BadFiles(sentences, f"{len(missing)} of the {len(names)} images that {named} names are missing", advice)
    outside = [name for name in dict.fromkeys(names) if not tree.may_read(name)]  # which read() refuses
    files = ((name, tree.read(name)) for name in [*outside, *present])
    chosen = choose_validation(files, share, str(tree.root))
    splits: Pairs = {"train": [], "val": []}
    for number, (content, (file, folder)) in enumerate(zip(contents, pairs, strict=True), 1):
        for split in splits:
            images = [i for i in content.images if (join(folder, i.file_name) in chosen) is (split == "val")]
            ids = {image.id for image in images}
            annotations = [a for a in content.annotations if a.image_id in ids]
            part = {"images": images, "annotations": annotations, "categories": content.categories}
            if images:
                part = {key: _without_absent(msgspec.to_builtins(entries)) for key, entries in part.items()}
                splits[split].append((write_annotations(target, f"{stem(file)}_{number}_{split}", part), folder))
    notes = [note for content in contents for note in content.notes]
    return splits, [*notes, _note(sum(name in chosen for name in names), len(names))]


def _without_absent(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if value is not None} for entry in entries]


def choose_validation(images: Iterable[tuple[str, bytes]], share: float, where: str) -> set[str]:
    """Return the names of about that share of the images: at least one picture, and never all.

    Args:
        images: pairs of a unique name and the file's bytes.
        share: from 0 to 1.
        where: the images are, for messages.

    Raises:
        InputError: the share is 0, or all images are one picture.
    """
    if not share:
        raise InputError(f"{where}: {NO_VALIDATION}")
    groups = _same_pictures(images)
    if len(groups) < 2:
        raise InputError(f"{where}: all images are one picture: none is left for validation; give more pictures")
    total = sum(map(len, groups))
    chosen: set[str] = set()
    for group in groups:
        too_many = len(chosen) + len(group) / 2 > share * total or len(chosen) + len(group) == total
        if not (chosen and too_many):
            chosen |= group
    return chosen


def _same_pictures(images: Iterable[tuple[str, bytes]]) -> list[set[str]]:
    """Return the names of each picture's files, in the order of the pictures' hashes."""
    parent: dict[str, str] = {}

    def find(mark: str) -> str:
        while parent.setdefault(mark, mark) != mark:
            parent[mark] = mark = parent[parent[mark]]
        return mark

    hash_of: dict[str, str] = {}
    for name, data in images:
        hash_of[name] = picture_hash(data)
        original, is_version, _ = name.rpartition("/")[2].partition(".rf.")
        if is_version:
            parent[find(f"Roboflow's {original}")] = find(hash_of[name])
    groups = defaultdict(set)
    for name, picture in hash_of.items():
        groups[find(picture)].add(name)
    return sorted(groups.values(), key=lambda names: min(hash_of[name] for name in names))


def picture_hash(data: bytes) -> str:
    """Return the sha256 of an image file; of a JPEG without the segments that hold metadata."""
    digest, start = hashlib.sha256(), 0
    for marker, offset in jpeg_markers(data):
        if marker in METADATA:
            digest.update(data[start : offset - 2])
            start = offset + int.from_bytes(data[offset : offset + 2], "big")
    digest.update(data[start:])
    return digest.hexdigest()


def _note(chosen: int, number: int) -> Note:
    text = f"no validation images are given: {chosen} of the {number} images are for validation (data.val_share)"
    return Note("validation-cut", chosen, text)
