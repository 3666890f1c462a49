"""`python -m tests.tiny_model DIR`: an untrained model file and a picture, for trying an installed wheel."""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from m2det.model import build_model
from m2det.model.model_file import save_trained

CLASSES = [str(digit) for digit in range(10)]


def write_tiny_model(folder: Path) -> Path:
    torch.manual_seed(0)
    card = {
        "model": "m2det-tiny",
        "overrides": {"sfam": True},
        "classes": CLASSES,
        "category_ids": list(range(1, 11)),
        "hashes": {},
    }
    model = build_model("m2det-tiny", 10, sfam=True)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of what it sees, so that outputs are of a trained model's size
    with torch.no_grad():
        model(torch.randint(-128, 128, (8, 3, 96, 96)).float())
    save_trained(folder / "model.safetensors", model, card)
    return folder / "model.safetensors"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    cv2.imwrite(str(target / "picture.jpg"), noise)
    print(write_tiny_model(target))
