"""Data sets of small photographs in COCO's format, made on the spot, with objects that can be found in the pixels."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 160, 120
TURNED = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def upright(box: tuple[int, int, int, int], width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Grey, with a red rectangle where the box (x, y, width, height) is."""
    pixels = np.full((height, width, 3), 120, np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255  # the whole range
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = (220, 30, 30)
    return Image.fromarray(pixels)


def photo(box: tuple[int, int, int, int], orientation: int, kind: str = "JPEG", **size: int) -> bytes:
    """The file of a camera that was held so that this orientation shows the picture upright."""
    picture, exif, file = upright(box, **size), Image.Exif(), BytesIO()
    if orientation > 1:
        exif[274] = orientation
        picture = picture.transpose(TURNED[orientation])
    picture.save(file, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def write_set(folder: Path, images: list[dict], boxes: list[dict], categories: list[dict] | None = None) -> Path:
    """Write FOLDER.json beside the folder; images: id, file_name, width, height and data, the file's bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        if image.get("data") is not None:
            (folder / image["file_name"]).write_bytes(image["data"])
    content = {
        "images": [{key: value for key, value in image.items() if key != "data"} for image in images],
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes, 1)],
        "categories": categories or [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(content))
    return path


def oriented_set(folder: Path, orientation: int, stored_size: bool = False, count: int = 3, **size: int) -> Path:
    """Photos in that orientation, boxes as drawn upright; sizes as upright, or as stored."""
    width, height = size.get("width", WIDTH), size.get("height", HEIGHT)
    images, boxes = [], []
    for i in range(count):
        box = (10 + 5 * i, 20, 60, 30)
        annotated = (height, width) if stored_size and orientation >= 5 else (width, height)
        images.append(
            {
                "id": i + 1,
                "file_name": f"{i}.jpg",
                "width": annotated[0],
                "height": annotated[1],
                "data": photo(box, orientation, **size),
            }
        )
        boxes.append({"image_id": i + 1, "category_id": 1 + i % 2, "bbox": list(box), "area": box[2] * box[3]})
    return write_set(folder, images, boxes)
