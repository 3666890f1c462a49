"""Which image files of a split exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from m2det.data.inspection import Fault
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.records import ImageRecord, Split
from m2det.errors import InputError


@dataclass
class Files:
    """The image files of a split.

    existing: positions of records whose files exist. sizes: bytes of those files. missing: records without a file.
    faults: of folders, one of whose names `pack` would not open.
    """

    existing: list[int] = field(default_factory=list)
    sizes: dict[Path, int] = field(default_factory=dict)
    missing: list[ImageRecord] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def find_images(split: Split) -> Files:
    """Return which images of a split exist."""
    folders: dict[ImageFolder, list[int]] = {}
    for index, record in enumerate(split.records):
        folders.setdefault(record.folder, []).append(index)
    files = Files()
    for folder, indices in folders.items():
        names = [split.records[i].file_name for i in indices]
        try:
            sizes = folder.sizes(names)
        except InputError as error:  # of one image; the others are looked at all the same
            files.faults.append(Fault(indices[0], "bad", str(error)))
            sizes = {name: path.stat().st_size for name in names if (path := folder.path / name).exists()}
        for index, name in zip(indices, names, strict=True):
            if name in sizes:
                files.existing.append(index)
                files.sizes[split.records[index].path] = sizes[name]
            else:
                files.missing.append(split.records[index])
    files.existing.sort()
    return files
