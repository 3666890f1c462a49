"""`data.source: auto`: the format of a data set by its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from posixpath import splitext

from m2det.config import DataParams
from m2det.data.sources.coco_layout import CocoLayout, find_coco, looks_like_coco
from m2det.data.sources.json_bytes import other_kind
from m2det.data.sources.made import Layout
from m2det.data.sources.tree import Tree, some
from m2det.data.sources.voc import find_voc, looks_like_voc
from m2det.data.sources.yolo import find_yolo, looks_like_yolo
from m2det.errors import InputError

FORMATS: dict[str, tuple[Callable[[Tree], str], Callable[[Tree, bool], Layout]]] = {
    "coco": (looks_like_coco, find_coco),
    "yolo": (looks_like_yolo, find_yolo),
    "voc": (looks_like_voc, find_voc),
}
LOOKED_FOR = (
    "JSON files with COCO's lists, a data.yaml with `names` or label files beside images (YOLO), and XML files of an "
    "<annotation> (Pascal VOC)"
)
PEEK = 512  # bytes that tell what a file is
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
SUFFIXES = 5  # kinds of files that the sentence counts


def find_layout(data: DataParams, root: Path, with_test: bool = False) -> Layout:
    """Return where the files of a data set of the user's own are: of the source auto, coco, yolo or voc.

    Args:
        data: the section `data`.
        root: data.root, a folder.
        with_test: look for the set's own test images, too (not those of data.test).

    Raises:
        InputError: no format, or more than one, is recognised, or files are missing.
    """
    tree = Tree(root, data.outside)
    if data.train:
        pairs = {"train": data.train, "val": data.val}
        return CocoLayout(tree, {split: [(e.annotations, e.images) for e in each] for split, each in pairs.items()})
    return FORMATS[_recognised(tree) if data.source == "auto" else data.source][1](tree, with_test)


def _recognised(tree: Tree) -> str:
    reasons = {name: reason for name, (looks_like, _) in FORMATS.items() if (reason := looks_like(tree))}
    if len(reasons) == 1:
        return next(iter(reasons))
    if reasons:
        seen = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
        raise InputError(
            f"data.root: {tree.root} seems to be in more than one format: {seen}; set data.source to yours"
        )
    for name in [name for name in tree.files if name.lower().endswith((".json", ".json.gz", ".json.zip"))][:SUFFIXES]:
        if kind := other_kind(tree.read(name, PEEK)):
            raise InputError(f"data.root: {tree.root / name} is no JSON, but {kind}")
    archives = [name for name in tree.files if name.lower().endswith(ARCHIVES)]
    hint = f"unpack {some(archives)} if the data set is in it; " if archives else ""
    suffixes = Counter(splitext(name)[1].lower() or "none" for name in tree.files)
    files = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(SUFFIXES)) or "none"
    raise InputError(
        f"data.root: {tree.root} holds no data set that is recognised; looked for {LOOKED_FOR}; its files by suffix: "
        f"{files}; {hint}see docs/data.md for layouts"
    )
