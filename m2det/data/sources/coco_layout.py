"""Data sets in COCO's format, found by their files or named in params.yaml: annotation files and image folders."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import basename

from m2det.data.sources.made import Converted, Pairs
from m2det.data.sources.missing import explain_missing
from m2det.data.sources.records import Note
from m2det.data.sources.split_names import choose_splits, split_of
from m2det.data.sources.tree import Tree, nearest, some
from m2det.data.sources.val_share import split_coco
from m2det.errors import InputError

PEEK = 1 << 16  # bytes at a file's beginning and end; COCO's have 450 MB
LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
ENTRIES = re.compile(rb'"(file_name|bbox|category_id|supercategory)"\s*:')
FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.){1,1000}")')
OTHERS = re.compile(rb'"(caption|segments_info)"\s*:')  # COCO's files that have no objects' boxes
KEYPOINTS = re.compile(rb'"keypoints"\s*:')  # these are of the same images as others
MAX_SAMPLED = 20  # file names that show where the images are
MAX_FILES = 200  # of JSON that are looked at; a folder with one for each image is no COCO


@dataclass(frozen=True)
class CocoLayout:
    """A data set in COCO's format.

    pairs: of annotation file and image folder, of `train` and, where given, `val` and `test`, relative to the root.
    notes: on how the files were found.
    """

    tree: Tree
    pairs: Pairs
    notes: list[Note] = field(default_factory=list)

    @property
    def saw(self) -> str:
        """What was recognised, and by which files."""
        return "COCO: " + ", ".join(
            f"{split} is {file} with the images in {folder}"
            for split, each in self.pairs.items()
            for file, folder in each
        )

    def annotation_files(self) -> list[str]:
        """Return the names of the annotation files."""
        return sorted({file for pairs in self.pairs.values() for file, _ in pairs})

    def convert(self, target: Path, val_share: float, skip: bool = False) -> Converted:
        """List the user's own files, or two parts of each, made below target/annotations, where `val` is missing."""
        if self.pairs.get("val"):
            return Converted(self.pairs, made=False, notes=self.notes)
        pairs, notes = split_coco(self.pairs["train"], self.tree, target, val_share, skip)
        return Converted(pairs, notes=[*self.notes, *notes])


def looks_like_coco(tree: Tree) -> str:
    """Return by what a folder seems to be in COCO's format; empty if it does not."""
    found = _annotation_files(tree)
    return f"{some(found)} {'have' if len(found) > 1 else 'has'} COCO's lists" if found else ""


def find_coco(tree: Tree, with_test: bool = False) -> CocoLayout:
    """Return where the files are, of test where asked. Raises InputError if something is missing or ambiguous."""
    files = _annotation_files(tree)
    if not files:
        raise InputError(f"{tree.root} has no JSON file with the lists images, annotations and categories, as COCO has")
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        found[split_of(file.removesuffix(".json"))].append(file)
    found["train"] = found["train"] or found[""]
    splits, notes = choose_splits(found, f"{tree.root}: COCO's format", with_test)
    for split, names in splits.items():
        if len(names) > 1:
            raise InputError(
                f"{tree.root} has several annotation files for {split}: {some(names)}; "
                + ("" if split == "test" else "set data.source: coco, and ")
                + f"list in {'data.test' if split == 'test' else 'data.train and data.val'} those that you want"
            )
    return CocoLayout(
        tree, {split: [(name, _images_of(tree, name)) for name in each] for split, each in splits.items()}, notes
    )


def _annotation_files(tree: Tree) -> list[str]:
    """Return the JSON files that seem to be in COCO's format, by their beginning and end."""
    found = [name for name in tree.files if name.lower().endswith(".json")]
    ends = {name: _ends(tree, name) for name in found} if len(found) <= MAX_FILES else {}
    found = [name for name in ends if _is_coco(ends[name])]
    return [name for name in found if not KEYPOINTS.search(ends[name])] or found


def _is_coco(ends: bytes) -> bool:
    return bool(LISTS.search(ends) and ENTRIES.search(ends) and not OTHERS.search(ends))


def _ends(tree: Tree, name: str) -> bytes:
    head = tree.read(name, PEEK)
    ends = head + b"\n" + tree.read_end(name, PEEK) if len(head) == PEEK else head
    return ends.replace(b"\0", b"")  # of UTF-16


def _images_of(tree: Tree, file: str) -> str:
    """Return the folder in which most of an annotation file's images are, by some of their names.

    Raises:
        InputError: none of them is in the data set.
    """
    quoted = FILE_NAME.findall(_ends(tree, file))
    names = [name for name in map(_unquoted, quoted[:: -(-len(quoted) // MAX_SAMPLED) or 1]) if name]
    votes: Counter[str] = Counter()
    by_name = tree.files_of_name
    for name in names:
        places = [image for image in by_name.get(basename(name), []) if f"/{image}".endswith(f"/{name}")]
        votes.update({f"/{image}".removesuffix(f"/{name}").removeprefix("/") or "." for image in places})
    if not votes:
        first = f", the first is {names[0]!r}," if names else ""
        advice = explain_missing(tree.root, names, anywhere=True) or "put the images there"
        raise InputError(f"no image that {tree.root / file} names{first} is below {tree.root}; {advice}")
    most = [folder for folder, count in votes.items() if count == max(votes.values())]
    split = split_of(file.removesuffix(".json"))
    of_split = [folder for folder in most if split_of(folder) == split] or most
    return min(nearest(file, [f"{folder}/x" for folder in of_split]), key=len).removesuffix("/x")


def _unquoted(text: bytes) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return ""
