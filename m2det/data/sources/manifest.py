"""The list of a data set's source files: names and sizes, relative to a root, without a copy of any.

The stage `data` writes the list, `pack` checks it: so DVC follows 123,000 images through one small file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from m2det.config import DataParams
from m2det.data.sources.coco_json import read_coco
from m2det.data.sources.coco_types import TEST
from m2det.data.sources.fault_list import BadFiles
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.image_times import NAME, warn_of_other_times
from m2det.data.sources.missing import explain_missing
from m2det.errors import InputError
from m2det.files.hashing import file_sha256

RAW = Path("data/coco")  # what the stage `data` makes, under the project's folder
RELIST = "put it back as it was, or run `dvc repro data`"
RESTORE = "put it back as it was, or run `dvc repro -f data`"  # by -f: DVC does not look at images


Roots = tuple[Path, Path]  # the folders that annotation files and image folders are given relative to


def roots_of(data: DataParams, base: Path = Path()) -> Roots:
    """Return the folders of a source's files: the stage's output, or data.root, which is relative to `base`.

    Of the user's own data the manifest says which annotation files the stage has made.
    """
    root = base / os.path.expanduser(data.root)  # noqa: PTH111 - Path's raises for an unknown user
    return (RAW, RAW) if data.source == "digits" else (root, root)


def may_lie_outside(data: DataParams) -> bool:
    """Return whether images may lie out of their folder; DVC may link those of `digits` to its cache."""
    return data.outside or data.source == "digits"


def write_manifest(
    path: Path,
    roots: Roots,
    splits: Mapping[str, Sequence[tuple[str, str]]],
    advice: str = "check names and the data root",
    outside: bool = False,
    skip_missing: bool = False,
    upright: bool = False,
    test: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the list of a data set's files.

    Args:
        path: of the list, JSON.
        roots: the folders that annotation files and image folders are relative to; the former may be the list's own.
        splits: each split's (annotation file, image folder) pairs.
        advice: the end of an error about a missing file.
        outside: whether images may lie out of their folder.
        skip_missing: leave out images that are missing: the stage `pack` skips them.
        upright: whether boxes are of the images as shown, by the format's own rule.
        test: pairs of one more split, the user's own files also where those of `splits` were made.

    Raises:
        BadFiles: images are missing, all of which it has.
        InputError: an annotation file or folder is missing, or an image lies outside and must not.
    """
    missing: dict[str, list[str]] = {}
    content = {
        split: [
            _describe(roots, annotations, images, advice, outside, missing, split == TEST)
            | ({"made": True} if roots[0] == path.parent else {})
            | ({"upright": True} if upright else {})
            for annotations, images in pairs
        ]
        for split, pairs in splits.items()
    }
    if test:
        content[TEST] = [_describe((roots[1],) * 2, *pair, advice, outside, missing, True) for pair in test]
    if missing and not skip_missing:
        _refuse_missing(missing)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def load_sources(
    path: Path, roots: Roots, outside: bool = False, times: Path | None = None
) -> dict[str, list[tuple[Path, Path]]]:
    """Return each split's (annotation file, image folder) pairs, for `read_split`.

    Args:
        path: of the list that write_manifest wrote.
        roots: the folders that annotation files, but those made beside the list, and image folders are relative to.
        outside: whether images may lie out of their folder.
        times: the file that write_times wrote; by default beside the list's folder.

    Raises:
        InputError: a file, the first of which is named, is not as it was when the list was written.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing, the list of source files; run `dvc repro data`")
    sources: dict[str, list[tuple[Path, Path]]] = {}
    for split, entries in json.loads(path.read_bytes()).items():
        sources[split] = []
        for entry in entries:
            annotations = path.parent if entry.get("made") else roots[0]
            _check((annotations, roots[1]), entry, outside)
            sources[split].append((annotations / entry["annotations"], roots[1] / entry["images"]))
    warn_of_other_times(path, roots[1], times or path.parent.parent / NAME)
    return sources


def with_known_orientation(data: DataParams, path: Path) -> DataParams:
    """Return the section `data`, its orientation "exif" where the listed data set's format says so."""
    entries = [entry for each in json.loads(path.read_bytes()).values() for entry in each]
    known = any(entry.get("upright") for entry in entries)
    return data.model_copy(update={"orientation": "exif"}) if known and data.orientation == "ask" else data


def missing_paths(roots: Roots, pairs: Sequence[tuple[str, str]], advice: str) -> Iterator[str]:
    """Yield a sentence for each annotation file and each image folder that is not there."""
    for file in dict.fromkeys(roots[0] / name for name, _ in pairs):
        if not file.exists():
            yield f"annotation file {file} is missing; {advice}"
    for folder in dict.fromkeys(roots[1] / name for _, name in pairs):
        if not folder.is_dir():
            yield f"image folder {folder} is missing; {advice}"


def _describe(
    roots: Roots,
    annotations: str,
    images: str,
    advice: str,
    outside: bool,
    missing: dict[str, list[str]],
    unlabelled: bool,
) -> dict[str, object]:
    """Return a list's entry; the paths of missing images are put into `missing`, by a sentence on all of them."""
    for fault in missing_paths(roots, [(annotations, images)], advice):
        raise InputError(fault)
    file, folder = roots[0] / annotations, roots[1] / images
    names = sorted({image.file_name for image in read_coco(file, outside, unlabelled).images})
    sizes = ImageFolder(folder, outside).sizes(names)
    absent = [name for name in names if name not in sizes]
    if absent:
        sentence = (
            f"{len(absent)} of the {len(names)} images that {file} names are not in {folder}; "
            f"{explain_missing(folder, absent) or advice}; those that are damaged are listed by "
            f"`m2det data check --annotations {file} --images {folder}`"
        )
        missing[sentence] = [str(folder / name) for name in absent]
    return {"annotations": annotations, "sha256": file_sha256(file), "images": images, "files": sizes}


def _refuse_missing(missing: Mapping[str, Sequence[str]]) -> NoReturn:
    paths = [f"{path} does not exist" for each in missing.values() for path in each]
    advice = "; ".join([*missing, "pack.on_bad_image: skip leaves them out"])
    raise BadFiles(paths, f"{len(paths)} images are missing", advice)


def _check(roots: Roots, entry: dict, outside: bool) -> None:
    file, folder = roots[0] / entry["annotations"], roots[1] / entry["images"]
    if not file.is_file():
        raise InputError(f"annotation file {file} is gone since the stage `data` ran; {RELIST}")
    if file_sha256(file) != entry["sha256"]:
        raise InputError(f"annotation file {file} has changed since the stage `data` ran; {RELIST}")
    sizes = ImageFolder(folder, outside).sizes(entry["files"])
    for name, size in entry["files"].items():
        if name not in sizes:
            raise InputError(f"image {folder / name} is gone since the stage `data` ran; {RESTORE}")
        if sizes[name] != size:
            raise InputError(
                f"image {folder / name} has {sizes[name]} bytes, not {size} as for the stage `data`; {RESTORE}"
            )
