"""The objects found in one image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from m2det.errors import InputError

if TYPE_CHECKING:
    import supervision

Image = NDArray[np.uint8]  # [H,W,3] BGR
MIN_SIDE = 480  # px of the shorter side of a drawn picture, for its texts to be legible
MAX_SCALE = 4.0  # enlarging more shows no more of a picture, and a strip of pixels would take gigabytes
MAX_SIDE = 65_500  # px of the longer side of a drawn picture: OpenCV writes no larger JPEG


def list_of_names(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names of classes, none for None. Raises InputError for a text, whose letters would be taken for names."""
    if isinstance(names, str) or not isinstance(names, Iterable | None):
        raise InputError(f"classes is {names!r}, it must be a list of names")
    return tuple(names or ())


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image, best first; the arrays have the names that `supervision.Detections` gives them.

    Indexing takes what a NumPy array takes (numbers, slices, masks) and returns Detections: `found[found.confidence >
    0.8]`, `found[found.class_id == 3]`, `found[0]`.

    Attributes:
        rows: float32 [N,6], xyxy in pixels with the last pixel inside, score, label from 1, as `m2det.evaluate` has
            them; not clipped to the image.
        size: (width, height) of the image, px.
        names: Of all classes that the network knows.
        category_ids: COCO's, one for each name.
        path: The picture's file; None for an array.
    """

    rows: NDArray[np.float32]
    size: tuple[int, int]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    path: Path | None = None
    _image: Image | None = field(default=None, repr=False)

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """Return the boxes' edges, clipped to the image, float32 [N,4] in pixels; a box is x2 - x1 px wide."""
        return self._last_pixels() + np.array([0, 0, 1, 1], np.float32)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Return the scores, float32 [N] in [0,1]."""
        return self.rows[:, 4]

    @property
    def class_id(self) -> NDArray[np.int64]:
        """Return the positions of the classes in `names`, int64 [N]."""
        return self.rows[:, 5].astype(np.int64) - 1

    @property
    def data(self) -> dict[str, NDArray[np.str_]]:
        """Return {"class_name": [N]}, the name of each object's class."""
        return {"class_name": np.array(self.names, str)[self.class_id]}

    @property
    def image(self) -> Image:
        """Return the image, uint8 [H,W,3] BGR, upright; of a picture's file it may be read again."""
        if self._image is not None:
            return self._image
        from m2det.data.jpeg import decode_bgr
        from m2det.files.regular_file import read_file

        assert self.path
        return decode_bgr(read_file(self.path), str(self.path))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> Detections:
        return replace(self, rows=np.atleast_2d(self.rows[index]))

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def __str__(self) -> str:
        names, counts = np.unique(self.data["class_name"], return_counts=True)
        found = [f"{count} {name}" for count, name in sorted(zip(counts.tolist(), names, strict=True), reverse=True)]
        return ", ".join(found) or "nothing"

    def of_classes(self, names: Sequence[str]) -> Detections:
        """Return the objects of these classes.

        Raises:
            InputError: the network knows no such class.
        """
        for name in list_of_names(names):
            if name not in self.names:
                raise InputError(f"class {name!r} is unknown to this model: it knows {', '.join(self.names)}")
        return self[np.isin(self.data["class_name"], names)]

    def plot(self, scale: float | None = None) -> Image:
        """Return the image with boxes, names and scores drawn.

        Args:
            scale: Of the drawn picture's side; None enlarges small images until texts are legible.

        Returns:
            uint8 [H x scale, W x scale, 3] BGR.
        """
        from m2det.viz.draw import BoxAnnotation, colour_of_label, draw_boxes

        width, height = self.size
        if scale is None:
            scale = min(max(1.0, MIN_SIDE / min(height, width)), MAX_SCALE)
        annotations = [
            BoxAnnotation(tuple(box), f"{self.names[i]} {score:.2f}", colour_of_label(i + 1))
            for box, score, i in zip(self._last_pixels(), self.confidence, self.class_id, strict=True)
        ]
        return draw_boxes(self.image, annotations, min(scale, MAX_SIDE / max(height, width)))

    def save(self, path: str | Path) -> None:
        """Write the drawn picture, in the format of the file's suffix.

        Raises:
            InputError: the suffix is no picture's, or the file cannot be written.
        """
        import cv2

        from m2det.files.whole import write_whole

        suffix = Path(path).suffix
        if not cv2.haveImageWriter(f"a{suffix}"):
            raise InputError(f"{path}: no picture can be written in the format {suffix or 'of no suffix'}; use .jpg")
        # cv2.imwrite would end the process for a name that is not UTF-8
        write_whole(Path(path), cv2.imencode(suffix, self.plot())[1].tobytes())

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the entries of a COCO results file: image_id, category_id, bbox (xywh, clipped) and score."""
        from m2det.evaluate.coco_results import coco_results

        return coco_results(image_id, self.size, self.rows, list(self.category_ids))

    def to_supervision(self) -> supervision.Detections:
        """Return roboflow's class, which needs `pip install supervision`."""
        import supervision

        return supervision.Detections(
            xyxy=self.xyxy, confidence=self.confidence, class_id=self.class_id, data=dict(self.data)
        )

    def without_image(self) -> Detections:
        """Return the same without the pixels, where the file has them."""
        return replace(self, _image=None if self.path else self._image)

    def _last_pixels(self) -> NDArray[np.float32]:
        width, height = self.size
        clipped: NDArray[np.float32] = self.rows[:, :4].clip(0, np.array([width - 1, height - 1] * 2, np.float32))
        return clipped
