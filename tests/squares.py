"""A data set of bright squares, packed, and a backbone: seconds to train on."""

import json

import cv2
import numpy as np

from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.files.tensors import save_tensors
from m2det.model.pretrained import random_backbone


def make_material(folder):
    """Write a packed cache of 14 images with one bright square each, and a backbone; return both paths."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(1, 15):
        picture = rng.integers(0, 60, (80, 80, 3), dtype=np.uint8)
        x, y, side = (int(v) for v in rng.integers((0, 0, 25), (40, 40, 40)))
        picture[y : y + side, x : x + side] = 220
        cv2.imwrite(str(folder / f"images/{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 80})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, side, side], "area": side**2})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "a.json").write_text(json.dumps(content))
    cache = folder / "cache"
    cache.mkdir()
    split = read_split([(folder / "a.json", folder / "images")])
    entries = {name: write_split(cache, name, split) for name in ("train", "val")}
    finish_cache(cache, split.categories, entries)
    state = {f"base.{k}": v for k, v in random_backbone("m2det-tiny", 0).state_dict().items()}
    save_tensors(folder / "backbone.safetensors", state, {})
    return cache, folder / "backbone.safetensors"
