"""Which image files of a split exist."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from m2det.data.inspection import Fault
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.records import ImageRecord, Split
from m2det.errors import InputError


def location(record: ImageRecord) -> str:
    """Return an image's path as text: Path takes ten times as long, and a data set may have 120,000 images."""
    return os.path.join(record.folder.path, record.file_name)  # noqa: PTH118


@dataclass
class Files:
    """The image files of a split.

    existing: positions of records whose files exist. sizes: bytes of those files, by location. missing: records
    without a file. faults: of folders, one of whose names `pack` would not open.
    """

    existing: list[int] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
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
                files.sizes[location(split.records[index])] = sizes[name]
            else:
                files.missing.append(split.records[index])
    files.existing.sort()
    return files
