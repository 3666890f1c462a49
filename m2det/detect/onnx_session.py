"""An exported network in onnxruntime: its detections on a packed split, to compare with PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from m2det.config import EvaluateParams
from m2det.data.dataloader import validation_loader
from m2det.data.packed.reader import PackedSplit
from m2det.evaluate.candidates import candidates_of_scores
from m2det.evaluate.coco_results import coco_results
from m2det.evaluate.inference import suppress_image


def run_onnx(session: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes and scores of an onnxruntime session, as of ExportedDetector; images float32 [B,3,S,S]."""
    boxes, scores = session.run(["boxes", "scores"], {"images": images.numpy()})
    return torch.from_numpy(boxes), torch.from_numpy(scores)


def coco_results_of_session(
    session: Any, split: PackedSplit, size: int, settings: EvaluateParams
) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of a COCO results file, image by image.

    Args:
        session: Of onnxruntime, for any size of batch.
        split: Of the images.
        size: Side of the network's input in pixels.
        settings: The batch size and the settings of postprocess.
    """
    for batch in validation_loader(split, size, range(len(split)), settings.batch_size, 0, pin=False):
        boxes, scores = run_onnx(session, batch.images.float().contiguous())
        found = candidates_of_scores(scores, partial(_rows_of, boxes), settings.score_threshold)
        for index, candidates in zip(batch.index.tolist(), found, strict=True):
            width, height = split.sizes[index].tolist()
            detections = suppress_image(candidates, (width, height), settings)
            yield coco_results(int(split.image_ids[index]), (width, height), detections, split.category_ids)


def _rows_of(boxes: Tensor, image: Tensor, prior: Tensor) -> Tensor:
    return boxes[image, prior]
