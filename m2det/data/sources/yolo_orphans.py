"""Label files of YOLO's format that belong to no image: their objects would be lost, in silence or nearly so."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator
from posixpath import splitext

from m2det.data.sources.tree import Tree, stem
from m2det.data.sources.yolo_labels import NUMBER
from m2det.errors import InputError

PEEK = 4096  # bytes of a text file that tell whether it holds labels
COLUMNS = 5  # of a label's line, at least


def orphan_labels(tree: Tree, used: Collection[str], known: Collection[str]) -> list[str]:
    """Return the label files that no image has.

    Args:
        tree: the data set.
        used: the names under which images look for their label files.
        known: text files that are none.
    """
    texts = (name for name in tree.files if name.lower().endswith(".txt") and name not in used and name not in known)
    # LabelImg writes classes.txt beside the labels
    return [name for name in texts if stem(name) != "classes" and (_in_labels(name) or _holds_labels(tree, name))]


def misnamed_labels(tree: Tree, orphans: Iterable[str], label_of: dict[str, str]) -> Iterator[InputError]:
    """Yield an error for each label file whose name is, but for case or Unicode form, that of an image's.

    Args:
        tree: the data set.
        orphans: label files that no image has.
        label_of: the names of label files that do not exist, by image.
    """
    wanted = {_folded(label): (image, label) for image, label in label_of.items()}
    for orphan in orphans:
        if match := wanted.get(_folded(orphan)):
            image, label = match
            same = unicodedata.normalize("NFC", orphan) == unicodedata.normalize("NFC", label)
            kind = "Unicode form (composed or decomposed letters)" if same else "upper and lower case"
            yield InputError(
                f"{tree.root / orphan} differs in {kind} from {label!a}, the label file that {image!a} would have; "
                "rename one of them"
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", splitext(name)[0]).casefold()


def _in_labels(name: str) -> bool:
    return "labels" in name.split("/")[:-1]


def _holds_labels(tree: Tree, name: str) -> bool:
    """Return whether a text file's first line is one of labels; others, such as a README, lie beside images, too."""
    lines = tree.read(name, PEEK).decode("utf-8-sig", "replace").strip().splitlines()
    words = lines[0].split() if lines else []
    return len(words) >= COLUMNS and all(map(NUMBER.fullmatch, words))
