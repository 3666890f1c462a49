"""`m2det detect`: draw the detections on pictures, and write them as COCO results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2det.cli.arguments import DEVICES, fraction
from m2det.errors import InputError
from m2det.files.whole import MAX_NAME_BYTES, write_whole
from m2det.text import printable

GOLDEN_ANGLE = 137.508  # degrees of hue between neighbouring classes, whose colours so look different
MIN_SIDE = 480  # px of the drawn picture's shorter side, for its texts to be legible
MAX_SIDE = 65_500  # px of its longer side: OpenCV writes no larger JPEG


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("detect", help="draw boxes on pictures, and write COCO results")
    names = "pictures or folders of pictures; put -- or ./ before a name that begins with -"
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|DIR", help=names)
    weights = "a model.safetensors, or a folder that `m2det release` made"
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE|DIR", help=weights)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the drawn pictures")
    results = "also write DIR/detections.json in COCO's results format; bytes of a name that are not UTF-8 as \\xff"
    parser.add_argument("--json", action="store_true", help=results)
    parser.add_argument("--score", type=fraction, default=0.5, help="minimum score to draw (default %(default)s)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.set_defaults(
        run=lambda args: detect_files(args.images, args.weights, args.out, args.score, args.json, args.device)
    )


def detect_files(
    paths: Sequence[Path], weights: Path, out: Path, min_score: float, as_json: bool, device_type: str
) -> None:
    """Write out/NAME.jpg with boxes for each picture, and out/detections.json where asked for.

    Args:
        paths: Pictures, or folders of pictures.
        weights: A model file, or the folder of a release.
        out: The folder for the drawn pictures.
        min_score: Detections that score less are not drawn.
        as_json: Also write the results of all pictures in COCO's format. `image_id` counts the pictures from 1, and
            each entry has a `file_name` with bytes that are not UTF-8 as \\xff.
        device_type: auto, cpu, cuda or npu.

    Raises:
        InputError: A picture or the model cannot be read, or two pictures would be drawn as one file.
    """
    import cv2
    import torch

    from m2det.data.jpeg import decode_bgr
    from m2det.data.pictures import find_pictures
    from m2det.data.transforms import resize_to_square
    from m2det.device import choose_device, to_device
    from m2det.evaluate.coco_results import coco_results
    from m2det.evaluate.inference import detect_images
    from m2det.evaluate.postprocess import viewing_params
    from m2det.files.regular_file import read_file
    from m2det.model import prior_boxes
    from m2det.model.model_file import load_trained
    from m2det.viz.draw import BoxAnnotation, draw_boxes

    targets = _targets(find_pictures(paths), out)
    device = choose_device(device_type)
    model, card = load_trained(weights)
    to_device(model, device)
    priors, size, params = prior_boxes(model.config), model.config.size, viewing_params(min_score)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for number, (target, path) in enumerate(targets.items(), 1):
        image = decode_bgr(read_file(path), str(path), upright=True)  # turned as a telephone's EXIF says
        height, width = image.shape[:2]
        batch = torch.from_numpy(resize_to_square(image, size)).permute(2, 0, 1)[None]
        detections = detect_images(model, priors, batch, [(width, height)], device, params)[0]
        for entry in coco_results(number, (width, height), detections, card["category_ids"]):
            # Python holds such bytes as half a surrogate pair, which other readers of JSON refuse
            results.append({**entry, "file_name": os.fsencode(path.name).decode(errors="backslashreplace")})
        drawable = detections[detections[:, 4] >= min_score]
        scale = min(max(1.0, MIN_SIDE / min(height, width)), MAX_SIDE / max(height, width))
        limits = (width - 1, height - 1) * 2
        annotations = []
        for row in drawable:
            label = int(row[5])
            text = f"{card['classes'][label - 1]} {row[4]:.2f}"
            annotations.append(BoxAnnotation(tuple(row[:4].clip(0, limits)), text, _color(label)))
        drawn = draw_boxes(image, annotations, scale)
        # cv2.imwrite would end the process for a name that is not UTF-8
        write_whole(target, cv2.imencode(".jpg", drawn)[1].tobytes())
        print(printable(f"{path}: {len(drawable)} objects -> {target}"))
    if as_json:
        write_whole(out / "detections.json", json.dumps(results, indent=1) + "\n")


def _targets(pictures: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Return the picture of each file to write. Raises InputError where a file would replace a picture or another."""
    targets: dict[Path, Path] = {}
    for path in pictures:
        target = out / f"{path.stem}.jpg"
        if len(os.fsencode(target.name)) > MAX_NAME_BYTES:
            raise InputError(f"{path}: its name and .jpg are longer than {MAX_NAME_BYTES} bytes; give it a shorter one")
        if os.path.realpath(target) == os.path.realpath(path):
            raise InputError(f"{target} would overwrite the picture itself; choose another --out")
        if target in targets:
            raise InputError(f"{targets[target]} and {path} would both be drawn as {target}; give them one at a time")
        targets[target] = path
    return targets


def _color(label: int) -> tuple[int, int, int]:
    import cv2
    import numpy as np

    hsv = np.array([[[int(label * GOLDEN_ANGLE) % 360 // 2, 150, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red
