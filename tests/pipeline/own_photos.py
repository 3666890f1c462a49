"""A small data set of one's own: 40 crops of scikit-learn's two photographs, of a tower and of a flower."""

import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

OBJECTS = {"tower": ("china.jpg", (62, 28, 372, 420)), "flower": ("flower.jpg", (168, 84, 446, 360))}  # xyxy, by eye
IMAGES, VALIDATION = 40, 8
EMPTY_EVERY = 10  # images whose number it divides show no object
VISIBLE = 0.6  # of an object's box, at least
SIDES = (200, 420)  # of a crop, px of the photograph
SIZE = 160  # longer side of an image, px
XML = """<annotation><filename>{}</filename><size><width>{}</width><height>{}</height></size>{}</annotation>"""
XML_OBJECT = """<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object>"""


class Photo(NamedTuple):
    """pixels: uint8 [H,W,3] BGR. boxes: of (class, x1, y1, x2, y2), whole pixels, the last one outside."""

    pixels: np.ndarray
    boxes: list[tuple[str, int, int, int, int]]


def photos() -> list[Photo]:
    return [_photo(np.random.default_rng(number), number) for number in range(IMAGES)]


def _photo(rng: np.random.Generator, number: int) -> Photo:
    name, (file, box) = list(OBJECTS.items())[number % 2]
    picture = cv2.imread(str(files("sklearn.datasets.images") / file))
    while True:
        w, h = rng.integers(*SIDES, 2)
        w, h = (w // 2, h // 2) if number % EMPTY_EVERY == 0 else (w, h)
        x, y = rng.integers(0, picture.shape[1] - w + 1), rng.integers(0, picture.shape[0] - h + 1)
        low, high = np.maximum(box[:2], (x, y)), np.minimum(box[2:], (x + w, y + h))
        shown = np.prod(np.maximum(high - low, 0)) / ((box[2] - box[0]) * (box[3] - box[1]))
        if shown == 0 if number % EMPTY_EVERY == 0 else shown > VISIBLE:
            break
    scale = SIZE / max(w, h)
    crop = cv2.resize(picture[y : y + h, x : x + w], (round(w * scale), round(h * scale)), interpolation=cv2.INTER_AREA)
    crop = (crop * rng.uniform(0.8, 1.1)).clip(0, 255).astype(np.uint8)
    x1, y1, x2, y2 = (int(v) for v in np.rint(np.concatenate([low - (x, y), high - (x, y)]) * scale))
    if rng.random() < 0.5:
        crop, x1, x2 = crop[:, ::-1], crop.shape[1] - x2, crop.shape[1] - x1
    return Photo(crop, [(name, x1, y1, x2, y2)] if shown else [])


def write_yolo(root: Path) -> None:
    """data.yaml, images/{train,val}, labels/{train,val}; PNGs among JPEGs."""
    names = sorted(OBJECTS)
    for number, photo in enumerate(photos()):
        split = "val" if number < VALIDATION else "train"
        h, w = photo.pixels.shape[:2]
        _write(root / f"images/{split}/IMG {number}.{'png' if number % 5 == 0 else 'jpg'}", photo)
        lines = []
        for name, x1, y1, x2, y2 in photo.boxes:
            shares = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
            lines.append(" ".join([str(names.index(name)), *(f"{share:.6f}" for share in shares)]))
        if lines:
            label = root / f"labels/{split}/IMG {number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"train: ../images/train\nval: ../images/val\nnc: 2\nnames: {names}\n")


def write_voc(root: Path) -> None:
    """Annotations, JPEGImages, and no lists: the validation set is cut."""
    for number, photo in enumerate(photos()):
        h, w = photo.pixels.shape[:2]
        _write(root / f"JPEGImages/cam-{number}.jpg", photo)
        objects = [XML_OBJECT.format(name, x1 + 1, y1 + 1, x2, y2) for name, x1, y1, x2, y2 in photo.boxes]
        xml = root / f"Annotations/cam-{number}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(XML.format(f"cam-{number}.jpg", w, h, "".join(objects)))


def write_coco(root: Path) -> None:
    """As Roboflow exports it: _annotations.coco.json beside the images of train and valid."""
    for split in ("train", "valid"):
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": n} for i, n in enumerate(OBJECTS, 1)],
        }
        for number, photo in enumerate(photos()):
            if (number < VALIDATION) == (split == "valid"):
                h, w = photo.pixels.shape[:2]
                _write(root / split / f"{number}.jpg", photo)
                content["images"].append({"id": number + 1, "file_name": f"{number}.jpg", "width": w, "height": h})
                content["annotations"] += [
                    {
                        "id": number + 1,
                        "image_id": number + 1,
                        "category_id": 1 + list(OBJECTS).index(name),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                    }
                    for name, x1, y1, x2, y2 in photo.boxes
                ]
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def _write(path: Path, photo: Photo) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, photo.pixels)[1].tobytes())
