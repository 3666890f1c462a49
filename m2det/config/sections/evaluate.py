"""Sections `evaluate` and `benchmark`: what is measured of a model, and what of a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from m2det.config.values import Fraction, Images, Section, setting


class EvaluateParams(Section):
    """From the network's output to detections and metrics."""

    split: Literal["val", "test"] = setting(
        "val", "images to detect on: val, or test (those of data.test, or the ones called test in your set)"
    )
    batch_size: Images = setting(16, "images of a step", "images")
    nms: Literal["hard", "linear", "gaussian"] = setting(
        "linear", "hard, linear or gaussian (the latter two are soft-NMS; original: linear)"
    )
    score_threshold: Fraction = setting(0.1, "candidates score more than this, before NMS")
    nms_iou: Fraction = setting(0.3, "IoU above which NMS acts (original's effective value: 0.3)")
    per_class: Annotated[int, Field(ge=1, le=100_000)] = setting(
        100, "detections kept per class and image; COCO's scorer counts up to 100 (original: 50)"
    )
    per_image: Annotated[int, Field(ge=0, le=10**6)] = setting(
        0, "detections kept per image; 0 keeps all (the original)"
    )
    scorer: Literal["auto", "hotcoco", "pycocotools"] = setting(
        "auto", "auto, hotcoco or pycocotools; their numbers agree"
    )


class BenchmarkParams(Section):
    """Sizes of the measurements of speed."""

    batch_size: Images = setting(16, "images of a step", "images")
    warmup: Annotated[int, Field(ge=1, le=10**6)] = setting(
        6, "steps before the timed ones (ModelZoo baseline: 6)", "steps"
    )
    steps: Annotated[int, Field(ge=1, le=10**6)] = setting(50, "timed steps", "steps")
