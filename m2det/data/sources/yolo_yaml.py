"""What YOLO's data.yaml says: the classes' names, and where the images of each split are."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from posixpath import dirname, join, normpath
from typing import Any

from m2det.data.sources.coco_checks import MAX_CATEGORIES, MAX_NAME
from m2det.data.sources.fault_list import BadFiles
from m2det.data.sources.image_folder import name_fault
from m2det.data.sources.missing import explain_missing
from m2det.data.sources.records import Note
from m2det.data.sources.tree import BadImage, Tree, is_image, some
from m2det.errors import InputError
from m2det.files.yaml_file import read_yaml

USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
PLAIN = ("classes.txt", "obj.names")  # one name a line, where no YAML is
KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
SUFFIXES = (".yaml", ".yml")
HAS_NAMES = re.compile(rb"^(?:\xef\xbb\xbf)?[\"']?names[\"']?\s*:", re.MULTILINE)
YAML_HEAD = 1 << 20  # bytes that are searched for `names`
MAX_LINE = 4096  # characters of a list's line
MAX_KEYPOINT_NUMBERS = 1000


@dataclass(frozen=True)
class YoloNames:
    """The class names and the images, as named.

    file: that names the classes. classes: by number. keypoints: how many numbers follow a box.
    images: of each split, where the file says it. lists: files that list images. absent: what they list that is not
    there.
    """

    file: str
    classes: dict[int, str]
    keypoints: int = 0
    images: dict[str, list[str]] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    absent: list[BadImage] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def find_yamls(tree: Tree) -> list[str]:
    """Return the YAML files with `names`, in the root or, if it has none, in its folders; the usual name only."""
    found = [name for name in _yamls(tree) if HAS_NAMES.search(tree.read(name, YAML_HEAD))]
    found = [name for name in found if "/" not in name] or found
    return [name for name in found if name.rpartition("/")[2].lower() in USUAL] or found


def _yamls(tree: Tree) -> list[str]:
    return [name for name in tree.files if name.lower().endswith(SUFFIXES) and name.count("/") <= 1]


def read_names(tree: Tree) -> YoloNames:
    """Return what data.yaml says, or classes.txt where there is none. Raises InputError for what is wrong."""
    found = find_yamls(tree)
    if len(found) > 1:
        raise InputError(f"{tree.root} has several files with `names`: {some(found)}; keep one, or call it data.yaml")
    return _read_yaml(tree, found[0]) if found else _read_plain(tree)


def _read_plain(tree: Tree) -> YoloNames:
    found = [name for name in tree.files if name.rpartition("/")[2] in PLAIN]
    contents = {tree.read(name) for name in found}
    if len(contents) != 1:
        state = f"differing files {some(found)}" if contents else "neither data.yaml nor classes.txt"
        if not contents and (others := _yamls(tree)):
            state = f"no `names:` at the beginning of a line of {some(others)}, and no classes.txt"
        raise InputError(f"{tree.root} has {state}, which names the classes; write a data.yaml with `names: [a, b]`")
    lines = [line.strip() for line in _text(contents.pop(), f"{tree.root / found[0]}").splitlines()]
    return YoloNames(found[0], _classes([line for line in lines if line], f"{tree.root / found[0]}"))


def _read_yaml(tree: Tree, file: str) -> YoloNames:
    tree.read(file, 0)  # refused where that leads out of the root
    path = f"{tree.root / file}"
    content = read_yaml(tree.root / file)
    classes = _classes(content["names"], path)
    if "nc" in content and str(content["nc"]).strip() != str(len(classes)):
        raise InputError(f"{path} names {len(classes)} classes, but its nc is {content['nc']!r}; correct one of them")
    bases, notes = _bases(tree, file, content.get("path"), path)
    images: dict[str, list[str]] = {}
    lists: list[str] = []
    absent: list[BadImage] = []
    for split, keys in KEYS.items():
        for value in [v for key in keys for v in _entries(content.get(key), f"{path}: {key}")]:
            if split == "test" and images.get("val") and not _there(tree, value, bases):
                continue  # exports name a folder of test images also where they have none
            place, note = _place(tree, value, bases, f"{path}: {split}")
            notes += note
            if tree.has(place):
                lists.append(place)
                found = _listed(tree, place, bases, absent)
            else:
                found = [name for name in tree.below(place) if is_image(name)]
            if not found and split != "test":
                cut = ", or leave the key out: then data.val_share of the images are for it" * (split == "val")
                raise InputError(
                    f"{path}: {split} is {value!r}, which has no images; name the folder that has them{cut}"
                )
            images.setdefault(split, []).extend(found)
    return YoloNames(file, classes, _keypoints(content.get("kpt_shape"), path), images, lists, absent, notes)


def _classes(names: Any, path: str) -> dict[int, str]:
    if not (isinstance(names, list | dict) and names):
        raise InputError(f"{path}: names must be a list, or a mapping from numbers, of one class or more")
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    classes = {}
    for number, name in numbered.items():
        if isinstance(number, bool) or not str(number).isascii() or not re.fullmatch(r"\d{1,6}", str(number)):
            raise InputError(f"{path}: names has the key {str(number)[:80]!r}; classes are numbered from 0")
        text = str(name)
        if isinstance(name, list | dict) or name is None or len(text) > MAX_NAME or (fault := name_fault(text)):
            wrong = fault if isinstance(name, str) and len(text) <= MAX_NAME else "which is no name"
            raise InputError(f"{path}: class {number} is called {text[:80]!r}, {wrong}")
        classes[int(number)] = text
    if len(classes) > MAX_CATEGORIES:
        raise InputError(f"{path} names {len(classes)} classes; {MAX_CATEGORIES} are the most")
    name, number = Counter(classes.values()).most_common(1)[0]
    if number > 1:
        raise InputError(f"{path} names {number} classes {name[:80]!r}; give each its own name")
    return classes


def _keypoints(shape: Any, path: str) -> int:
    """Return how many numbers of keypoints follow a box, by kpt_shape: [points, 2 or 3]."""
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n <= 1000 for n in shape)):
        raise InputError(
            f"{path}: kpt_shape is {str(shape)[:80]}; it must be [points, numbers of each], such as [17, 3]"
        )
    return shape[0] * shape[1]


def _entries(value: Any, where: str) -> list[str]:
    entries = [] if value is None else value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str) or not entry.strip() or (fault := name_fault(entry)):
            wrong = fault if isinstance(entry, str) and entry.strip() else "no path"
            raise InputError(
                f"{where} is {str(entry)[:80]!r}, {wrong}; give a folder of images, or a .txt that lists them"
            )
    return entries


def _bases(tree: Tree, file: str, path: Any, where: str) -> tuple[list[str], list[Note]]:
    """Return the folders that entries are relative to: data.yaml's `path`, if that is there, and its own folder."""
    own = dirname(file) or "."
    if path is None:
        return [own], []
    if isinstance(path, list):
        raise InputError(f"{where}: path is a list; give one folder, or leave the key out")
    [text] = _entries(path, f"{where}: path")
    if tree.has_folder(join(own, text)):
        name = tree.name_of(join(own, text))
        if tree.may_read(name):
            return [*dict.fromkeys([name, own])], []
    return [own], [Note("yaml-path", 1, f"{where}: its path {text!r} is not here: its own folder is used")]


def _places(tree: Tree, entry: str, bases: list[str]) -> list[str]:
    """Return the names that an entry may mean; Roboflow writes ../train/images for train/images."""
    entry = entry.strip().replace("\\", "/")
    return [
        *dict.fromkeys(
            tree.name_of(normpath(join(base, each))) for each in (entry, entry.removeprefix("../")) for base in bases
        )
    ]


def _there(tree: Tree, entry: str, bases: list[str]) -> list[str]:
    return [name for name in _places(tree, entry, bases) if tree.has_folder(name) or tree.has(name)]


def _place(tree: Tree, entry: str, bases: list[str], where: str) -> tuple[str, list[Note]]:
    """Return the folder or list that an entry means, and a note where only the end of its path is here."""
    there = _there(tree, entry, bases)
    allowed = [name for name in there if tree.may_read(name)]
    if there and not allowed:
        raise tree.leads_out(entry, where)
    if allowed:
        return allowed[0], []
    parts = entry.strip().replace("\\", "/").rstrip("/").split("/")
    for start in range(1, len(parts)):  # /content/mine/train/images is another machine's
        ends = _there(tree, "/".join(parts[start:]), bases)
        if found := next((name for name in ends if tree.may_read(name)), ""):
            return found, [Note("yaml-path", 1, f"{where} is {entry!r}, which is not here: {found!r} is used")]
    looked = " and no ".join(_places(tree, entry, bases))
    raise InputError(f"{where} is {entry!r}, but {tree.root} has no {looked}; correct {where}")


def _listed(tree: Tree, file: str, bases: list[str], absent: list[BadImage]) -> list[str]:
    """Return the images that a list names, from its own folder, from data.yaml's, or by the end of a longer path.

    Those that are not there are added to `absent`.

    Raises:
        InputError: a line is no name, or no image is there.
    """
    path = f"{tree.root / file}"
    found, missing = [], {}
    for number, line in enumerate(_text(tree.read(file), path).splitlines(), 1):
        if not line.strip():
            continue
        entry = line.strip().replace("\\", "/")
        if len(entry) > MAX_LINE or name_fault(entry):
            raise InputError(f"{path}, line {number}: {entry[:80]!r} is no name of an image; give one name a line")
        parts = entry.lstrip("/").split("/")
        ends = [entry, *("/".join(parts[k:]) for k in range(len(parts)))]
        candidates = (tree.name_of(normpath(join(base, end))) for end in ends for base in (dirname(file), *bases))
        image = next((name for name in candidates if tree.may_read(name) and tree.has(name)), None)
        if image is None:
            missing[entry] = f"{path}, line {number}: {entry!r} is not below {tree.root}"
        else:
            found.append(image)
    if missing:
        remedy = "correct the list"
        similar = explain_missing(tree.root, list(missing), f"rename the files, or {remedy}", anywhere=True) or remedy
        sentences = list(missing.values())
        if not found:
            raise BadFiles(sentences, f"none of the {len(missing)} images that {path} lists is there", similar)
        absent += [BadImage(f"{sentence}; {similar if k == 0 else remedy}") for k, sentence in enumerate(sentences)]
    return found


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")  # Windows also writes UTF-16
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}); save it as UTF-8") from error
