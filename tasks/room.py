"""The disk space of a run, estimated before it starts: downloaded images, the packed cache and the checkpoints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from m2det.config import DataParams, PackParams, Params
from m2det.data.packed.encoding import MAX_SAMPLED, ImageEncoding
from m2det.data.sources.annotation_files import MADE_HERE
from m2det.data.sources.coco2014 import ARCHIVES, absent_archives, usable_splits
from m2det.data.sources.coco_json import read_coco
from m2det.data.sources.manifest import may_lie_outside, roots_of
from m2det.data.sources.tree import Tree
from m2det.download import partial_paths
from m2det.errors import InputError
from tasks.common import main_root

MARGIN = 1.1
PAGE = 4096  # bytes of LMDB's pages and of annotations, per image
CLASSES = 80  # COCO's; their number is known once the annotations are read, and changes little
CHECKPOINTS = 4  # at once on the disk: two, the next while it is written, and the best weights or the model


class Need(NamedTuple):
    """What a run writes into a folder: a name, its bytes, and how many of them the folder already holds."""

    what: str
    size: int
    held: int = 0


Needs = Mapping[Path, Need]


def require_room(needs: Needs) -> None:
    """Raise InputError if a disk has no room for all that a run writes to it, by folder."""
    disks: dict[int, list[Path]] = {}
    for folder in needs:
        disks.setdefault(_disk(folder), []).append(folder)
    for folders in disks.values():
        more = sum(max(0, needs[folder].size - needs[folder].held) for folder in folders)
        free = shutil.disk_usage(_existing(folders[0])).free
        if more > free:
            what = " and ".join(f"{needs[f].what} about {needs[f].size / 1e9:.1f} GB in {f}" for f in folders)
            raise InputError(f"the disk has {free / 1e9:.1f} GB free, but this run writes {what}; make room")


def download_room(data: DataParams) -> Needs:
    """Return what the stage `data` needs, for `require_room`, of a source that it downloads: the files, which stay.

    Their zips are gone when the next stage begins, and the stage itself makes sure of their room first.
    """
    root = roots_of(data, main_root())[1]
    absent = absent_archives(root) if data.source == "coco2014-download" else []
    parts = [path for archive in absent for path in partial_paths(root / archive.name) if path.exists()]
    size, held = sum(archive.size for archive in absent), sum(path.stat().st_size for path in parts)
    return {root: Need("COCO 2014", size, held)} if absent else {}


def cache_room(data: DataParams, pack: PackParams) -> Needs:
    """Return what the stage `pack` needs, for `require_room`; nothing for `digits`, which is small.

    Images are counted by their folders, and only where that is too much by the annotation files, which takes seconds;
    those of coco2014-download, which may be absent, by their zips, and only if they are packed as they are.
    """
    encoding = ImageEncoding(pack.images, pack.side, pack.quality)
    if data.source == "coco2014-download" and pack.images == "original":
        zips = [archive for archive in ARCHIVES if archive.folder == "images"]
        return _cache_needs(sum(archive.size + archive.number * PAGE for archive in zips))
    if data.source in MADE_HERE:
        return {}
    if data.source != "coco2014" and not data.train:
        tree = Tree(roots_of(data, main_root())[1], data.outside)
        return _cache_needs(_bytes({tree.root: tree.images}, encoding))
    pairs = _pairs(data)
    images = {path: _names(path) for path in {path for _, path in pairs}}
    need = _cache_needs(_bytes(images, encoding))
    try:
        require_room(need)
    except InputError:
        named: dict[Path, set[str]] = {}
        for annotations, path in pairs:
            content = read_coco(annotations, may_lie_outside(data), unlabelled=True)
            named.setdefault(path, set()).update(image.file_name for image in content.images)
        need = _cache_needs(_bytes(named, encoding))
    return need


def _cache_needs(size: int) -> Needs:
    """Return the needs of a packed cache: on the project's disk, and on that of DVC's cache if it is another one."""
    folder = main_root() / "data" / "unfinished"
    needs = {folder: Need("the packed cache", size, _size(folder))}
    kept = dvc_cache()
    if _disk(kept) != _disk(folder):
        needs[kept] = Need("DVC's copy of the packed cache", size)
    return needs


def dvc_cache() -> Path:
    """Return the folder of DVC's cache; on one disk with the project it holds links to the same bytes."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    return Path(os.fsdecode(subprocess.run(command, capture_output=True, check=True).stdout).strip())


def checkpoint_room(params: Params) -> Needs:
    """Return what the checkpoints of the stage `train` need, for `require_room`."""
    import torch

    from m2det.model import build_model

    with torch.device("meta"):
        model = build_model(params.model.name, CLASSES, **params.model.all_overrides)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    copies = 1 + {"sgd": 1, "adamw": 2}[params.train.optimizer] + bool(params.train.ema_decay)
    folder = main_root() / "models" / "unfinished"
    return {folder: Need("checkpoints", CHECKPOINTS * copies * weights, _size(folder))}


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


def _disk(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder; a training beside this may remove some meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
