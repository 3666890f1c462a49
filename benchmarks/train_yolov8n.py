"""Train YOLOv8n and detect: the part of compare_ultralytics.py that a Python with ultralytics runs.

`PYTHON train_yolov8n.py ROOT EPOCHS SEED SIZE THREADS`: ROOT has digits.yaml, and val.txt, whose images are detected
on. Writes ROOT/yolov8n.json: ultralytics' version, CPU seconds from the first training step to the last, the number of
parameters, and of each detection the image's file name, the class from 0, the score and the box (xywh, pixels).
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
import ultralytics  # type: ignore[import-not-found]
from ultralytics.utils import USER_CONFIG_DIR, nms  # type: ignore[import-not-found]

MIN_SCORE = 0.001  # ultralytics' own when it validates
# for a training of minutes: with the defaults (AdamW, as ultralytics chooses; 3 epochs of warm-up; an update per 64
# images) AP was 0.43 after 20 epochs, with these 0.79
SHORT: dict[str, Any] = {"optimizer": "SGD", "lr0": 0.01, "warmup_epochs": 1.0, "nbs": 16}
PER_IMAGE = 100  # detections, as many as COCO's AP looks at


def main(root: Path, epochs: int, seed: int, size: int, threads: int) -> None:
    """Train on ROOT/digits.yaml from random weights, without a network, and write ROOT/yolov8n.json."""
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    shutil.copy(font, USER_CONFIG_DIR / "Arial.ttf")  # which ultralytics would download, though it draws nothing here
    torch.set_num_threads(threads)
    times: dict[str, float] = {}

    def begin(trainer: Any) -> None:  # noqa: ARG001 - ultralytics passes it
        times["begin"] = time.process_time()

    def end(trainer: Any) -> None:  # noqa: ARG001
        times["end"] = time.process_time()

    model = ultralytics.YOLO("yolov8n.yaml")
    model.add_callback("on_train_start", begin)
    model.add_callback("on_train_epoch_end", end)  # of each epoch: the last call counts
    model.train(
        data=str(root / "digits.yaml"),
        epochs=epochs,
        imgsz=size,
        batch=16,
        seed=seed,
        device="cpu",
        workers=0,
        fliplr=0.0,
        flipud=0.0,
        pretrained=False,
        **SHORT,
        val=False,  # but once after the last epoch, which the time does not include
        save=False,  # likewise
        plots=False,
        project=str(root / "runs"),
    )
    if torch.get_num_threads() != threads:
        sys.exit(f"ultralytics has set {torch.get_num_threads()} threads instead of {threads}")
    parameters = sum(p.numel() for p in model.model.parameters())
    # as ultralytics' own validation does: a box may have several classes, which raises AP; predict has no option for it
    nms.non_max_suppression = partial(nms.non_max_suppression, multi_label=True)
    detections = []
    source = str(root / "val.txt")
    found = model.predict(
        source, stream=True, imgsz=size, conf=MIN_SCORE, max_det=PER_IMAGE, device="cpu", save=False, verbose=False
    )
    for image in found:
        boxes = image.boxes
        for label, score, (x1, y1, x2, y2) in zip(boxes.cls, boxes.conf, boxes.xyxy.tolist(), strict=True):
            detections.append((Path(image.path).name, int(label), float(score), (x1, y1, x2 - x1, y2 - y1)))
    report = {
        "version": ultralytics.__version__,
        "cpu_seconds": times["end"] - times["begin"],
        "parameters": parameters,
        "detections": detections,
    }
    (root / "yolov8n.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
