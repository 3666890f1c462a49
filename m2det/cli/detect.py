"""What `m2det detect` does: pictures in, pictures with boxes and COCO results out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

from m2det.config import EvaluateParams
from m2det.data.jpeg import decode_bgr
from m2det.data.pictures import find_pictures
from m2det.data.transforms import resize_to_square
from m2det.device import choose_device, to_device
from m2det.errors import InputError
from m2det.evaluate.coco_results import coco_results
from m2det.evaluate.inference import detect_images
from m2det.files.regular_file import read_file
from m2det.files.whole import LONGEST_NAME, write_whole
from m2det.model import prior_boxes
from m2det.model.model_file import load_trained
from m2det.text import printable
from m2det.viz.draw import BoxAnnotation, draw_boxes

# one colour a class, by the golden angle around the circle of hues: neighbours in the list look different
GOLDEN_ANGLE = 137.508
LEAST_SIDE, LONGEST_SIDE = 480, 65_500  # of the drawn picture, px: to read its texts, and that OpenCV writes as JPEG


def detect_files(
    paths: Sequence[Path], weights: Path, out: Path, least_score: float, as_json: bool, device_name: str
) -> None:
    """Write out/NAME.jpg for each picture, and out/detections.json where asked for.

    In the JSON, image_id counts the pictures from 1 and file_name stands beside it, bytes that are no UTF-8 as \\xff;
    hard NMS, so that no object is drawn twice (soft-NMS keeps near-duplicates: good for AP, not for eyes).
    """
    pictures = find_pictures(paths)
    targets: dict[Path, Path] = {}
    for path in pictures:
        target = out / f"{path.stem}.jpg"
        if len(os.fsencode(target.name)) > LONGEST_NAME:
            raise InputError(f"{path}: its name and .jpg are longer than {LONGEST_NAME} bytes; give it a shorter one")
        if os.path.realpath(target) == os.path.realpath(path):
            raise InputError(f"{target} would overwrite the picture itself; choose another --out")
        if target in targets:
            raise InputError(f"{targets[target]} and {path} would both be drawn as {target}; give them one at a time")
        targets[target] = path
    device = choose_device(device_name)
    model, card = load_trained(weights)
    to_device(model, device)
    priors, size = prior_boxes(model.config), model.config.size
    settings = EvaluateParams(
        batch_size=1,
        nms="hard",
        score_threshold=min(0.05, least_score),
        nms_iou=0.45,
        per_class=50,
        per_image=100,
        scorer="auto",
    )
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for number, (target, path) in enumerate(targets.items(), 1):
        image = decode_bgr(read_file(path), str(path), upright=True)  # a telephone's picture as one sees it
        height, width = image.shape[:2]
        batch = torch.from_numpy(resize_to_square(image, size)).permute(2, 0, 1)[None]
        detections = detect_images(model, priors, batch, [(width, height)], device, settings)[0]
        for entry in coco_results(number, (width, height), detections, card["category_ids"]):
            # half a surrogate pair, as Python holds such bytes, would be no JSON to others
            results.append({**entry, "file_name": os.fsencode(path.name).decode(errors="backslashreplace")})
        shown = detections[detections[:, 4] >= least_score]
        limits = (width - 1, height - 1) * 2
        annotations = []
        for row in shown:
            label = int(row[5])
            box = tuple(row[:4].clip(0, limits))
            annotations.append(BoxAnnotation(box, f"{card['classes'][label - 1]} {row[4]:.2f}", _colour(label)))
        scale = min(max(1.0, LEAST_SIDE / min(height, width)), LONGEST_SIDE / max(height, width))
        drawn = draw_boxes(image, annotations, scale)
        # not by cv2.imwrite, which a name that is no UTF-8 ends by a signal
        write_whole(target, cv2.imencode(".jpg", drawn)[1].tobytes())
        print(printable(f"{path}: {len(shown)} objects -> {target}"))
    if as_json:
        write_whole(out / "detections.json", json.dumps(results, indent=1) + "\n")


def _colour(label: int) -> tuple[int, int, int]:
    import numpy as np

    hsv = np.array([[[int(label * GOLDEN_ANGLE) % 360 // 2, 150, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red
