"""The disk space of a run, estimated before it starts: the packed cache and the checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from m2det.config import DataParams, PackParams, Params
from m2det.data.packed.encoding import MAX_SAMPLED, ImageEncoding
from m2det.data.sources.annotation_files import MADE_HERE
from m2det.data.sources.coco2014 import usable_splits
from m2det.data.sources.coco_json import read_coco
from m2det.data.sources.manifest import may_lie_outside, roots_of
from m2det.data.sources.tree import Tree
from m2det.errors import InputError
from tasks.common import main_root

MARGIN = 1.1
PAGE = 4096  # bytes of LMDB's pages and of annotations, per image
CLASSES = 80  # COCO's; their number is known once the annotations are read, and changes little
CHECKPOINTS = 4  # at once on the disk: two, the next while it is written, and the best weights or the model


def require_room(needs: Mapping[Path, tuple[str, int]]) -> None:
    """Raise InputError if a disk has no room for all that a run writes to it.

    Args:
        needs: by folder, what is written there and its bytes; what the folder already holds counts towards them.
    """
    disks: dict[int, list[Path]] = {}
    for folder in needs:
        disks.setdefault(os.stat(_existing(folder)).st_dev, []).append(folder)  # noqa: PTH116 - of a Path
    for folders in disks.values():
        more = sum(max(0, needs[folder][1] - _size(folder)) for folder in folders)
        free = shutil.disk_usage(_existing(folders[0])).free
        if more > free:
            what = " and ".join(f"{needs[f][0]} about {needs[f][1] / 1e9:.1f} GB in {f}" for f in folders)
            raise InputError(f"the disk has {free / 1e9:.1f} GB free, but this run writes {what}; make room")


def cache_room(data: DataParams, pack: PackParams) -> dict[Path, tuple[str, int]]:
    """Return what the stage `pack` needs, for `require_room`; nothing for sources made or fetched by the stage `data`.

    Images are counted by their folders, and only where that is too much by the annotation files, which takes seconds.
    """
    folder = main_root() / "data" / "unfinished"
    encoding = ImageEncoding(pack.images, pack.side, pack.quality)
    if data.source in MADE_HERE:
        return {}
    if data.source != "coco2014" and not data.train:
        tree = Tree(roots_of(data, main_root())[1], data.outside)
        return {folder: ("the packed cache", _bytes({tree.root: tree.images}, encoding))}
    pairs = _pairs(data)
    images = {path: _names(path) for path in {path for _, path in pairs}}
    need = {folder: ("the packed cache", _bytes(images, encoding))}
    try:
        require_room(need)
    except InputError:
        named: dict[Path, set[str]] = {}
        for annotations, path in pairs:
            content = read_coco(annotations, may_lie_outside(data), unlabelled=True)
            named.setdefault(path, set()).update(image.file_name for image in content.images)
        need = {folder: ("the packed cache", _bytes(named, encoding))}
    return need


def checkpoint_room(params: Params) -> dict[Path, tuple[str, int]]:
    """Return what the checkpoints of the stage `train` need, for `require_room`."""
    import torch

    from m2det.model import build_model

    with torch.device("meta"):
        model = build_model(params.model.name, CLASSES, **params.model.all_overrides)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    copies = 1 + {"sgd": 1, "adamw": 2}[params.train.optimizer] + bool(params.train.ema_decay)
    return {main_root() / "models" / "unfinished": ("checkpoints", CHECKPOINTS * copies * weights)}


def _pairs(data: DataParams) -> list[tuple[Path, Path]]:
    roots = roots_of(data, main_root())
    pairs = [(entry.annotations, entry.images) for entry in (*data.train, *data.val, *data.test)]
    if data.source == "coco2014":
        pairs += usable_splits(roots[1])
    return [(roots[0] / annotations, roots[1] / images) for annotations, images in pairs]


def _bytes(images: Mapping[Path, Collection[str]], encoding: ImageEncoding) -> int:
    """Estimate the bytes of images by folder from a sample of each."""
    total = 0.0
    for folder, names in images.items():
        sampled = sorted(names)[:: -(-len(names) // MAX_SAMPLED)] if names else []
        sizes = [len(encoding.encode(path.read_bytes(), name)) for name in sampled if (path := folder / name).is_file()]
        total += sum(sizes) / max(1, len(sizes)) * len(names) * MARGIN + len(names) * PAGE
    return int(total)


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder; a training beside this may remove some meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
