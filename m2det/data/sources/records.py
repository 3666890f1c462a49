"""The contents of a data source of any format: categories, and images with their cleaned boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2det.data.sources.image_folder import ImageFolder


@dataclass(frozen=True)
class Category:
    """A class of objects, by the annotation file's id. supercategory: the name of its group, empty without one."""

    id: int
    name: str
    supercategory: str = field(default="", compare=False)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its cleaned boxes.

    boxes: float32 [N,4] xyxy in pixels.
    labels: int16 [N], 1-based positions among the categories sorted by id.
    iscrowd: bool [N], regions that training ignores.
    area: float32 [N], of the annotations, px^2.
    """

    image_id: int
    file_name: str
    folder: ImageFolder
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int16]
    iscrowd: NDArray[np.bool_]
    area: NDArray[np.float32]

    @property
    def path(self) -> Path:
        """The image file."""
        return self.folder.path / self.file_name

    def read(self) -> bytes:
        """Return the image file's bytes. Raises InputError as ImageFolder.read does."""
        return self.folder.read(self.file_name)


@dataclass(frozen=True)
class Note:
    """What reading has decided for the user, or left out.

    code: its kind, such as "dropped-boxes"; never changes for a kind.
    count: of the entries that it is about.
    text: one sentence with the file, the count and the reason.
    examples: sentences or names of all of them, where a list is of use.
    """

    code: str
    count: int
    text: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split.

    records: sorted by image id.
    categories: sorted by id.
    dropped: number of boxes left out by cleaning, by reason.
    clipped: number of boxes kept that reached over an edge.
    ground_truth: a COCO dict of the boxes as annotated, for scoring: cleaning is for training only.
    notes: what reading has decided or left out, for the user.
    """

    records: list[ImageRecord]
    categories: list[Category]
    dropped: dict[str, int]
    clipped: int
    ground_truth: dict[str, list[dict[str, Any]]]
    notes: tuple[Note, ...] = ()
