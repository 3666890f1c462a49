"""Data sets in Pascal VOC's format: VOC itself, as the original trains on it, and trees of one's own.

VOC itself (years and lists as below, names of digits, no class but its 20) keeps its 20 classes, in their order. Of any
other tree the classes are those that its files name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname

from m2det.data.orientation import stored_size, upright_size
from m2det.data.sources.made import Converted, FileFaults, LabelledImage, make_annotations
from m2det.data.sources.missing import explain_missing
from m2det.data.sources.records import Note
from m2det.data.sources.split_names import choose_splits, split_of
from m2det.data.sources.tree import BadImage, Tree, nearest, some, stem
from m2det.data.sources.val_share import split_images
from m2det.data.sources.voc_kit import Key, convert_years, find_years, has_its_classes, missing_split
from m2det.data.sources.voc_lists import find_lists, names_in, split_lists
from m2det.data.sources.voc_xml import VocImage, coco_object, read_xml
from m2det.errors import InputError

ANNOTATION = b"<annotation"
EXPECTED = "Pascal VOC's format has one for each image, mostly in Annotations"
PEEKED = 5  # XML files, whose beginnings are looked at
PEEK = 4096  # bytes


@dataclass(frozen=True)
class VocLayout:
    """A data set in Pascal VOC's format.

    splits: names of the annotation files of `train` and, where given, `val`.
    lists: the files that list images.
    years: the annotation files of VOC itself, if this may be VOC; else empty.
    notes: on how the files were found.
    """

    tree: Tree
    splits: dict[str, list[str]]
    lists: list[str]
    years: dict[Key, list[str]]
    notes: list[Note]

    @property
    def saw(self) -> str:
        """What was recognised, and by which files."""
        counts = ", ".join(f"{split} has {len(xmls)} XML files" for split, xmls in self.splits.items())
        return f"Pascal VOC: {counts}, by {some(self.lists) or 'their folders, without lists'}"

    def annotation_files(self) -> list[str]:
        """Return the names of the XML files and of the lists."""
        return sorted({*self.lists, *(xml for xmls in (*self.splits.values(), *self.years.values()) for xml in xmls)})

    def convert(self, target: Path, val_share: float, skip: bool = False) -> Converted:
        """Write the annotation files below target/annotations; pixels count from 0; arguments as of Layout.

        Raises:
            InputError: a file is no VOC annotation or has no image, or VOC itself lacks a split.
        """
        faults = FileFaults(skip)
        xmls = dict.fromkeys(xml for each in (*self.years.values(), *self.splits.values()) for xml in each)
        contents = faults.read_each(xmls, lambda xml: read_xml(self.tree.read(xml), str(self.tree.root / xml)))
        years = {key: {xml: contents[xml] for xml in each if xml in contents} for key, each in self.years.items()}
        if years and has_its_classes(years):
            faults.require_none()
            return convert_years(self.tree, years, target)
        images = {split: {xml: contents[xml] for xml in each if xml in contents} for split, each in self.splits.items()}
        names = sorted({o.name for split in images.values() for image in split.values() for o in image.objects})
        numbers = {name: number for number, name in enumerate(names, 1)}
        described: set[str] = set()
        labelled = {split: self._label(content, numbers, faults, described) for split, content in images.items()}
        faults.require_none()
        if not names:
            raise InputError(f"no XML file below {self.tree.root} has an object: there is nothing to learn from")
        notes = [*self.notes, *self._unlabelled(described), *faults.notes()]
        if "val" not in labelled:
            labelled, note = split_images(labelled["train"], self.tree, val_share)
            notes.append(note)
        classes = {number: name for name, number in numbers.items()}
        return Converted(make_annotations(target, labelled, classes), notes=notes)

    def _label(
        self, images: Mapping[str, VocImage], numbers: Mapping[str, int], faults: FileFaults, described: set[str]
    ) -> list[LabelledImage]:
        """Return the images with their objects; add the images that have an annotation file to `described`."""
        xml_of: dict[str, str] = {}

        def label(xml: str) -> LabelledImage:
            content = images[xml]
            image = image_of(self.tree, xml, content.file_name)
            if (other := xml_of.setdefault(image, xml)) != xml:
                raise InputError(
                    f"{self.tree.root / other} and {xml} are both of the image {image}; remove one of them"
                )
            described.add(image)
            width, height = _size(self.tree, xml, image, content.size)
            objects = [coco_object(each, numbers[each.name]) for each in content.objects]
            return LabelledImage(image, width, height, objects)

        return [*faults.read_each(images, label).values()]

    def _unlabelled(self, described: Collection[str]) -> list[Note]:
        """Return a note on the images that no XML file describes; what lists leave out was meant to be."""
        left = [name for name in self.tree.images if name not in described]
        if self.lists or not left:
            return []
        text = f"{len(left)} images have no XML file, left out: {some(left)}"
        return [Note("unlabelled-images", len(left), text, tuple(left))]


def looks_like_voc(tree: Tree) -> str:
    """Return by what a folder seems to be in Pascal VOC's format; empty if it does not."""
    for xml in _xmls(tree)[:PEEKED]:
        if ANNOTATION in tree.read(xml, PEEK).replace(b"\0", b""):  # also in UTF-16
            return f"{xml} is an XML file of an <annotation>"
    return ""


def find_voc(tree: Tree, with_test: bool = False) -> VocLayout:
    """Return where the files are. Raises InputError if something is missing, or the test set is wanted."""
    if with_test:  # whose classes would be the model's, too: they are those that the files name
        raise InputError(
            f"{tree.root} is in Pascal VOC's format, whose test set is not read: give it in data.test, in COCO's format"
        )
    xmls = _xmls(tree)
    lists = find_lists(tree, xmls)
    if not xmls:
        raise InputError(missing_split(tree) or f"{tree.root} has no XML files; {EXPECTED}")
    found: dict[str, list[str]] = defaultdict(list)
    used: dict[str, list[str]] = {}
    for folder, names in lists.items():
        contents = {name: names_in(tree, name, _XmlOf(folder, xmls)) for name in names}
        used |= {name: content for name, content in contents.items() if content is not None}
        for split, chosen in split_lists({name: used[name] for name in names if name in used}).items():
            found[split] += chosen
    if not used:
        for xml in xmls:
            found[split_of(dirname(xml))].append(xml)
        found["train"] = found["train"] or found[""]
    splits, notes = choose_splits(found, str(tree.root))
    return VocLayout(tree, splits, sorted(used), find_years(used), notes)


class _XmlOf:
    """Gives the annotation file of a name in a list: of Annotations beside it, or anywhere below the folder."""

    def __init__(self, folder: str, xmls: Sequence[str]) -> None:
        self._by_name: dict[str, str] = {}
        self._number = Counter(map(stem, xmls))
        for xml in sorted(xmls, key=lambda xml: not xml.startswith(f"{folder}Annotations/")):
            if xml.startswith(folder):
                inside = xml.removeprefix(folder).removeprefix("Annotations/").removesuffix(".xml")
                self._by_name.setdefault(inside, xml)
                self._by_name.setdefault(stem(xml), xml)

    def __call__(self, name: str) -> str:
        """Return the annotation file's name, empty for none. `JPEGImages/a` is a where one file alone has that name."""
        *folders, base = name.replace("\\", "/").split("/")
        alone = self._number[base] == 1 and ".." not in folders
        return self._by_name.get(name) or (self._by_name.get(base, "") if alone else "")


def image_of(tree: Tree, xml: str, file_name: str) -> str:
    """Return the image that an annotation file describes: of its name, or of the name that it gives.

    Raises:
        BadImage: no image has either name.
        InputError: several have one, and lie equally near.
    """
    named = file_name.replace("\\", "/").rpartition("/")[2]
    of_stem = tree.images_of_stem
    candidates = nearest(xml, of_stem.get(stem(xml)) or of_stem.get(stem(named), []))
    exact = [image for image in candidates if image.rpartition("/")[2] == named]
    if len(exact or candidates) == 1:
        return (exact or candidates)[0]
    if candidates:
        raise InputError(f"{tree.root / xml} may be of {' or of '.join(candidates[:2])}; rename one of them")
    names = " and no ".join(dict.fromkeys(filter(None, (named, f"{stem(xml)}.jpg"))))
    similar = explain_missing(tree.root, [named or f"{stem(xml)}.jpg"], "rename one of them", anywhere=True)
    advice = similar or "put the image there, or remove the XML"
    raise BadImage(f"{tree.root / xml} has no image: {tree.root} has no {names}; {advice}")


def _size(tree: Tree, xml: str, image: str, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return an image's (width, height) as annotated, else upright. Raises BadImage where the image has another."""
    upright = tree.measure(image, upright_size)
    if size and size != upright and size != (stored := tree.measure(image, stored_size)):
        raise BadImage(
            f"{tree.root / xml} says {size[0]}x{size[1]} px, but {image} has {stored[0]}x{stored[1]}; correct one"
        )
    return size or upright


def _xmls(tree: Tree) -> list[str]:
    """Return the annotation files: the XML files in folders called Annotations, or all where no folder is."""
    found = [name for name in tree.files if name.lower().endswith(".xml")]
    return [name for name in found if "annotations" in dirname(name).lower().split("/")] or found
