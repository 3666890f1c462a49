"""Models for other runtimes: ONNX, checked against PyTorch, and the command that makes Ascend's .om of it."""

from __future__ import annotations

import logging
import os
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from m2det.boxes import decode_offsets_to_xyxy
from m2det.data.jpeg import decode_bgr
from m2det.data.pictures import find_pictures
from m2det.data.sources.digits import photographs
from m2det.data.transforms import resize_to_square
from m2det.errors import InputError
from m2det.files.regular_file import read_file
from m2det.files.whole import replacing, write_whole
from m2det.model import M2Det, prior_boxes
from m2det.model.model_file import load_trained
from m2det.model.preprocess import MEAN_BGR
from m2det.text import printable

log = logging.getLogger(__name__)

MOST_PICTURES = 8  # that an export is checked on
TOLERANCE = 1e-4  # of boxes (fractions of the image, of themselves where larger than it) and scores

ATC = """#!/bin/sh
# Makes {name}.om of {name}.onnx for an Ascend device, with the compiler atc of CANN (source its set_env.sh first).
# Written with the model's exact shapes; it was not run on a device. atc computes in float16 unless told otherwise.
#   SOC_VERSION=Ascend910B3 BATCH=1 sh {name}_atc.sh
# SOC_VERSION is "Ascend" and the name that `npu-smi info` gives. The batch is fixed in an .om: one file for each.
set -eu
cd "$(dirname "$0")"
: "${{SOC_VERSION:?is not set: Ascend and the name that npu-smi info gives, such as Ascend910B3}}"
: "${{BATCH:=1}}"
atc --framework=5 --model={stem}.onnx --output={stem}_bs"$BATCH" --input_format=NCHW \\
    --input_shape="images:$BATCH,3,{size},{size}" --soc_version="$SOC_VERSION" --log=error
"""


class ExportedDetector(nn.Module):
    """images float32 [B,3,S,S] BGR 0 to 255 -> boxes [B,P,4] xyxy in [0,1], scores [B,P,C+1], background first.

    Everything up to non-maximum suppression, which runtimes do in ways of their own.
    """

    mean: Tensor
    priors: Tensor

    def __init__(self, model: M2Det) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(MEAN_BGR, dtype=torch.float32)[:, None, None])
        self.register_buffer("priors", prior_boxes(model.config))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(images - self.mean)
        return decode_offsets_to_xyxy(outputs["loc"], self.priors), outputs["conf"].softmax(-1)


def export_onnx(weights: Path, target: Path, pictures: list[Path]) -> None:
    """Write OUT.onnx (any batch) once it computes what PyTorch does on the pictures, and OUT_atc.sh beside it.

    pictures: files or folders, of which the first eight are taken; none: the two photographs of scikit-learn.
    Raises InputError without the extra `export`, and where the outputs differ by more than 1e-4.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise InputError(f"exporting needs {module}; install the extra: pip install 'm2det[export]'")
    model, _ = load_trained(weights)
    detector, size = ExportedDetector(model).eval(), model.config.size
    images = _read(find_pictures(pictures or photographs())[:MOST_PICTURES], size)
    script = target.with_name(f"{target.stem}_atc.sh")
    for path in (target, script):
        if path.is_dir():
            raise InputError(f"{path} is a folder; move it, or give another --out")
    with replacing(target) as temporary:
        torch.onnx.export(
            detector,
            (images[:2],),
            temporary,
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        difference = _difference(detector, temporary, images)
        if not difference <= TOLERANCE:
            raise InputError(
                f"the exported network differs from PyTorch's by {difference:.2g}; {target} was not written"
            )
        write_whole(script, os.fsencode(atc_script(target.stem, size)))  # first: no .onnx stands without it
    log.info("%s: the same as PyTorch's within %.1e on %d pictures", printable(str(target)), difference, len(images))
    log.info("%s: makes an .om of it where CANN is; it was not run on a device", printable(str(script)))


def atc_script(stem: str, size: int) -> str:
    """The shell script for STEM.onnx, whose name is a word in it and nothing else."""
    return ATC.format(stem=shlex.quote(stem), name=printable(stem), size=size)


def _difference(detector: ExportedDetector, path: Path, images: Tensor) -> float:
    """The largest over boxes and scores, one picture at a time and all in one batch."""
    import onnxruntime

    # the bytes: a name that is no UTF-8 is none for onnxruntime
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (*images.split(1), images):
        with torch.inference_mode():
            wanted = detector(batch)
        found = session.run(["boxes", "scores"], {"images": batch.numpy()})
        for a, b in zip((x.numpy() for x in wanted), found, strict=True):
            worst = max(worst, float((np.abs(a - b) / np.maximum(np.abs(a), 1)).max()))
    return worst


def _read(paths: list[Path], size: int) -> Tensor:
    """float32 [N,3,S,S] BGR 0 to 255."""
    squares = []
    for path in paths:
        squares.append(resize_to_square(decode_bgr(read_file(path), str(path)), size))
    if len(squares) == 1:
        squares *= 2  # a batch of one would be exported as one for ever
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float().contiguous()
