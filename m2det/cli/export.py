"""`m2det export`: a model as ONNX, checked against PyTorch, with the script that compiles it to Ascend's .om."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2det.errors import InputError
from m2det.files.whole import replacing, write_whole
from m2det.text import print_log, printable

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

MAX_PICTURES = 8  # to check an export on
TOLERANCE = 1e-4  # of boxes (fractions of the image; relative where larger) and scores

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


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("export", help="export a model to another format, checked against PyTorch")
    parser.add_argument("weights", type=Path, metavar="FILE", help="a model.safetensors")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="onnx, with the script that makes an .om")
    parser.add_argument("--out", type=Path, metavar="OUT.onnx", help="(default: FILE with the suffix .onnx)")
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="IMAGE|DIR", help="to check it on")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print_log()
    export_onnx(arguments.weights, arguments.out or arguments.weights.with_suffix(".onnx"), arguments.images)


def export_onnx(weights: Path, target: Path, pictures: Sequence[Path]) -> None:
    """Write OUT.onnx (any batch size) if it computes what PyTorch does on the pictures, and OUT_atc.sh beside it.

    Args:
        weights: A model file.
        target: The ONNX file to write.
        pictures: Files or folders, of which the first eight pictures are taken; none: scikit-learn's two photographs.

    Raises:
        InputError: The extra `export` is not installed, or the outputs differ by more than TOLERANCE.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise InputError(f"exporting needs {module}; install the extra: pip install 'm2det[export]'")
    import torch

    from m2det.data.pictures import find_sources
    from m2det.data.sources.digits import photographs
    from m2det.model.exported import ExportedDetector
    from m2det.model.model_file import load_trained

    model, _ = load_trained(weights)
    detector, size = ExportedDetector(model).eval(), model.config.size
    images = _read_images([source.path for source in find_sources(pictures or photographs())][:MAX_PICTURES], size)
    script = target.with_name(f"{target.stem}_atc.sh")
    for path in (target, script):
        if path.is_dir():
            raise InputError(f"{path} is a folder; move it, or give another --out")
    with replacing(target) as temporary:
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["boxes", "scores"]}
        shapes = {"images": {0: torch.export.Dim("batch")}}
        options: dict[str, Any] = {"external_data": False, "dynamo": True, "verbose": False}
        torch.onnx.export(detector, (images[:2],), temporary, dynamic_shapes=shapes, **names, **options)
        difference = _difference(detector, temporary, images)
        if not difference <= TOLERANCE:
            raise InputError(
                f"the exported network differs from PyTorch's by {difference:.2g}; {target} was not written"
            )
        write_whole(script, os.fsencode(atc_script(target.stem, size)))  # first: an .onnx always has its script
    log.info("%s: the same as PyTorch's within %.1e on %d pictures", printable(str(target)), difference, len(images))
    log.info("%s: makes an .om of it on a machine with CANN; not run on a device", printable(str(script)))


def atc_script(stem: str, size: int) -> str:
    """Return the shell script for STEM.onnx with an input of `size` pixels; the stem is quoted as one word."""
    return ATC.format(stem=shlex.quote(stem), name=printable(stem), size=size)


def _difference(detector: nn.Module, path: Path, images: Tensor) -> float:
    """Return the largest difference of boxes and scores, over each image alone and all in one batch."""
    import numpy as np
    import onnxruntime
    import torch

    # onnxruntime takes no path that is not UTF-8, so it gets the bytes
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in (*images.split(1), images):
        with torch.inference_mode():
            expected = detector(batch)
        actual = session.run(["boxes", "scores"], {"images": batch.numpy()})
        for a, b in zip((x.numpy() for x in expected), actual, strict=True):
            largest = max(largest, float((np.abs(a - b) / np.maximum(np.abs(a), 1)).max()))
    return largest


def _read_images(paths: Sequence[Path], size: int) -> Tensor:
    """Return the pictures, resized, as float32 [N,3,size,size] BGR from 0 to 255."""
    import numpy as np
    import torch

    from m2det.data.jpeg import decode_bgr
    from m2det.data.transforms import resize_to_square
    from m2det.files.regular_file import read_file

    squares = [resize_to_square(decode_bgr(read_file(path), str(path)), size) for path in paths]
    if len(squares) == 1:
        squares *= 2  # torch.export would fix a batch size of one
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float().contiguous()
