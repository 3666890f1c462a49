"""Pascal VOC's lists of images, ImageSets/Main/*.txt: one name a line, without suffix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from posixpath import dirname

from m2det.data.sources.fault_list import BadFiles
from m2det.data.sources.split_names import split_of
from m2det.data.sources.tree import Tree, is_image, stem
from m2det.errors import InputError

FOLDERS = ("ImageSets/Main", "ImageSets")
PEEK = 4096  # bytes of a text file that tell whether it is a list
CLASS_MARKS = ("-1", "0", "1")  # after the names in the lists of one class, such as cat_train.txt


def find_lists(tree: Tree, xmls: Sequence[str]) -> dict[str, list[str]]:
    """Return the lists by the folder that ImageSets lies in; its name ends in a slash, or is empty for the root.

    Without ImageSets, those beside the folder of annotation files that are called as a split and list names of them.

    Args:
        tree: the data set.
        xmls: the annotation files.
    """
    found = defaultdict(list)
    for name in tree.files:
        for folder in FOLDERS:
            if name.endswith(".txt") and f"/{dirname(name)}".endswith(f"/{folder}"):
                found[dirname(name).removesuffix(folder)].append(name)
                break
    if not found:
        folders = {"".join(f"{part}/" for part in dirname(xml).split("/")[:-1]) for xml in xmls}
        stems = {stem(xml) for xml in xmls}
        for name in tree.files:
            folder, base = name[: name.rfind("/") + 1], name.rpartition("/")[2]
            if folder in folders and base.endswith(".txt") and split_of(base) and _lists_names(tree, name, stems):
                found[folder].append(name)
    return dict(found)


def _lists_names(tree: Tree, file: str, stems: Collection[str]) -> bool:
    lines = tree.read(file, PEEK).decode("utf-8-sig", "replace").strip().splitlines()
    name = lines[0].strip() if lines else ""
    return name in stems or (is_image(name) and stem(name) in stems)


def names_in(tree: Tree, file: str, xml_of: Callable[[str], str]) -> list[str] | None:
    """Return the annotation files of the images that a list names, each once; None for the list of a class.

    Args:
        tree: the data set.
        file: the list.
        xml_of: gives the annotation file of a name, empty for none.

    Raises:
        InputError: names have no annotation file.
    """
    found, faults = [], []
    for line in tree.read(file).decode(errors="backslashreplace").splitlines():
        if not (name := line.strip().removeprefix("\ufeff")):
            continue
        xml = xml_of(name) or (xml_of(name[: name.rfind(".")]) if is_image(name) else "")
        if not xml and name.split()[-1] in CLASS_MARKS and len(name.split()) > 1:
            return None
        if xml:
            found.append(xml)
        else:
            faults.append(
                f"{tree.root / file} lists {name!r}, no name of a VOC image: there is no {stem(name)}.xml in "
                f"{tree.root / dirname(file).partition('ImageSets')[0]}"
            )
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        raise BadFiles(faults, f"{len(faults)} names of {tree.root / file} have no XML file", "correct the list")
    return [*dict.fromkeys(found)]


def split_lists(lists: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return what one folder's lists are for: train, val and test.

    A list of no such name, CVAT's default.txt, is for training if no other is. `trainval` holds `val`: both are used
    only where `train` is missing, and then without what is in `val`.

    Args:
        lists: annotation files by the list's name.
    """
    by_split: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name, xmls in lists.items():
        by_split[split_of(stem(name))][name] = xmls
    train, val = by_split["train"] or by_split[""], by_split["val"]
    whole = {name for name in train if "trainval" in stem(name).lower()}
    if val and whole != {*train}:
        train = {name: xmls for name, xmls in train.items() if name not in whole}
    held = {xml for xmls in val.values() for xml in xmls} if whole == {*train} else set()
    return {
        "train": [xml for xml in _joined(train) if xml not in held],
        "val": _joined(val),
        "test": _joined(by_split["test"]),
    }


def _joined(lists: Mapping[str, list[str]]) -> list[str]:
    return [*dict.fromkeys(xml for xmls in lists.values() for xml in xmls)]
