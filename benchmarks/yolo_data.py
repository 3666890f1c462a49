"""`digits` in YOLO's format, written beside its annotations in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m2det.data.sources.coco2014 import SPLITS


def write_yolo_data(root: Path) -> None:
    """Write labels/, train.txt and val.txt (the images of each split) and digits.yaml under root.

    Args:
        root: Of `digits`, absolute, as make_digits writes it; its own two folders stay as they are.
    """
    names: list[str] = []
    for split, sources in SPLITS.items():
        images: list[Path] = []
        for file, folder in sources:
            content = json.loads((root / file).read_text())
            names = [category["name"] for category in content["categories"]]
            images += _write_labels(root, root / folder, content)
        (root / f"{split}.txt").write_text("".join(f"{path}\n" for path in images))
    description = {"path": str(root), "train": "train.txt", "val": "val.txt", "names": names}
    (root / "digits.yaml").write_text(json.dumps(description))  # JSON is YAML


def to_coco_results(detections: list[tuple[str, int, float, list[float]]], truth: Path) -> list[dict[str, Any]]:
    """Return entries of a COCO results file.

    Args:
        detections: The image's file name, the class from 0, the score, the box (xywh in pixels).
        truth: Annotations of these images in COCO's format.
    """
    content = json.loads(truth.read_text())
    image_ids = {image["file_name"]: image["id"] for image in content["images"]}
    category_ids = [category["id"] for category in content["categories"]]
    return [
        {"image_id": image_ids[name], "category_id": category_ids[label], "bbox": box, "score": score}
        for name, label, score, box in detections
    ]


def _write_labels(root: Path, folder: Path, content: dict[str, Any]) -> list[Path]:
    """Write a label file per image, without crowds, and return the images.

    A line of it is `class x y w h`: the class from 0, center and size of the box in [0,1] of the image. ultralytics
    looks for it under the image's path with `labels` for `images`.
    """
    label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    lines: dict[int, str] = dict.fromkeys(sizes, "")
    for entry in content["annotations"]:
        if not entry["iscrowd"]:
            (width, height), (x, y, w, h) = sizes[entry["image_id"]], entry["bbox"]
            box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            lines[entry["image_id"]] += f"{label_of[entry['category_id']]} {' '.join(f'{v:.6f}' for v in box)}\n"
    paths = [folder / image["file_name"] for image in content["images"]]
    for image, path in zip(content["images"], paths, strict=True):
        labels = (root / "labels" / path.relative_to(root / "images")).with_suffix(".txt")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(lines[image["id"]])
    return paths
