"""A split's boxes as annotated, in arrays: what the checks count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2det.data.sources.records import Split


@dataclass(frozen=True)
class BoxTable:
    """All boxes of a split, before cleaning.

    Attributes:
        split: its name.
        names: file names of its N images.
        image: int64 [M], each box's image, as a position among them.
        label: int64 [M], from 1.
        boxes: float64 [M,4], as annotated, to be read as x y width height.
        sizes: float64 [M,2], (width, height) of each box's image.
        area: float64 [M], px^2, as annotated.
        crowd: bool [M].
        classes: names, in the order of labels.
    """

    split: str
    names: Sequence[str]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    boxes: NDArray[np.float64]
    sizes: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    classes: Sequence[str]

    @classmethod
    def of(cls, name: str, split: Split) -> BoxTable:
        """Return the table of a split's ground truth."""
        entries = split.ground_truth["annotations"]
        position = {record.image_id: index for index, record in enumerate(split.records)}
        label_of = {category.id: label for label, category in enumerate(split.categories, 1)}
        image = np.array([position[entry["image_id"]] for entry in entries], np.int64)
        sizes = np.array([(record.width, record.height) for record in split.records], np.float64).reshape(-1, 2)
        return cls(
            name,
            [record.file_name for record in split.records],
            image,
            np.array([label_of[entry["category_id"]] for entry in entries], np.int64),
            np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4),
            sizes[image],
            np.array([entry["area"] for entry in entries], np.float64),
            np.array([entry["iscrowd"] for entry in entries], bool),
            [category.name for category in split.categories],
        )

    def examples(self, boxes: NDArray[np.bool_]) -> tuple[str, ...]:
        """Return texts of some of the boxes that are marked, bool [M]."""
        return tuple(
            f"{self.names[self.image[i]]}: {[round(float(v), 2) for v in self.boxes[i]]}"
            for i in np.flatnonzero(boxes)[:20]
        )
