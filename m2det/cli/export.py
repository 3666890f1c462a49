"""`m2det export`: a model as ONNX, checked against PyTorch, with the script that compiles it to Ascend's .om."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2det.cli.arguments import positive_int
from m2det.errors import InputError
from m2det.files.whole import replacing, write_whole
from m2det.text import print_log, printable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2det.model import M2Det

log = logging.getLogger(__name__)

MAX_PICTURES = 8  # to check an export on
MAX_AP_DIFFERENCE = 0.001  # between PyTorch and onnxruntime
TOLERANCE = 1e-4  # of boxes (fractions of the image; relative where larger) and scores

ATC = """#!/bin/sh
# Makes {name}.om of {name}.onnx for an Ascend device, with the compiler atc of CANN (source its set_env.sh first).
# Written with the model's exact shapes; it was not run on a device. The .om computes in float16.
#   SOC_VERSION=Ascend910B3 BATCH=1 sh {name}_atc.sh
# SOC_VERSION is "Ascend" and the name that `npu-smi info` gives. The batch is fixed in an .om: one file for each.
set -eu
cd "$(dirname "$0")"
: "${{SOC_VERSION:?is not set: Ascend and the name that npu-smi info gives, such as Ascend910B3}}"
: "${{BATCH:={batch}}}"
atc --framework=5 --model={stem}.onnx --output={stem}_bs"$BATCH" --input_format=NCHW \\
    --input_shape="images:$BATCH,3,{size},{size}" --soc_version="$SOC_VERSION" --precision_mode=force_fp16 --log=error
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("export", help="export a model to another format, checked against PyTorch")
    parser.add_argument("weights", type=Path, metavar="FILE", help="a model.safetensors")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="onnx, with the script that makes an .om")
    parser.add_argument("--out", type=Path, metavar="OUT.onnx", help="(default: FILE with the suffix .onnx)")
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="IMAGE|DIR", help="to check it on")
    fixed = "fix the batch size, so that the graph computes no shapes (default: any size)"
    parser.add_argument("--batch", type=positive_int, default=0, metavar="N", help=fixed)
    nms = "add an output with what NMS keeps, for onnxruntime, TensorRT and OpenVINO; not for Ascend"
    parser.add_argument("--nms", action="store_true", help=nms)
    validate = "compare AP of both networks on a packed cache's validation images (such as data/cache)"
    parser.add_argument("--validate", type=Path, metavar="CACHE", help=validate)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print_log()
    target = arguments.out or arguments.weights.with_suffix(".onnx")
    export_onnx(arguments.weights, target, arguments.images, arguments.batch, arguments.nms, arguments.validate)


def export_onnx(
    weights: Path,
    target: Path,
    pictures: Sequence[Path],
    batch: int = 0,
    nms: bool = False,
    cache: Path | None = None,
) -> None:
    """Write OUT.onnx if it computes what PyTorch does on the pictures, and OUT_atc.sh beside it.

    Args:
        weights: A model file.
        target: The ONNX file to write.
        pictures: Files or folders, of which the first eight pictures are taken; none: scikit-learn's two photographs.
        batch: Fixed size of the batch; 0 for any size.
        nms: Add NMS to the graph, for other runtimes than Ascend's.
        cache: A packed cache, on whose validation images both networks' AP is compared; None for none.

    Raises:
        InputError: The extra `export` is not installed, the outputs differ by more than TOLERANCE, or AP by more than
            MAX_AP_DIFFERENCE.
    """
    for module in ("onnx", "onnxslim", "onnxruntime"):
        if find_spec(module) is None:
            raise InputError(f"exporting needs {module}; install the extra: pip install 'm2det[export]'")
    from m2det.data.pictures import find_sources
    from m2det.data.sources.digits import photographs
    from m2det.detect.onnx_export import make_onnx
    from m2det.model.exported import ExportedDetector
    from m2det.model.model_file import load_trained

    model, card = load_trained(weights)
    detector, size = ExportedDetector(model).eval(), model.config.size
    paths = [source.path for source in find_sources(pictures or photographs()) if not source.is_video]
    images = _read_images(paths[:MAX_PICTURES], size, batch or 1)
    script = target.with_name(f"{target.stem}_atc.sh")
    for path in (target, script):
        if path.is_dir():
            raise InputError(f"{path} is a folder; move it, or give another --out")
    with replacing(target) as temporary:
        example = images[:batch] if batch else images[:2]
        content = make_onnx(model, card, example, batch, nms).SerializeToString()
        temporary.write_bytes(content)
        session = _session(content)
        difference = _difference(detector, session, images, batch)
        if not difference <= TOLERANCE:
            raise InputError(
                f"the exported network differs from PyTorch's by {difference:.2g}; {target} was not written"
            )
        if cache:
            log.info("%s", _compare_metrics(model, session, cache))
        write_whole(script, os.fsencode(atc_script(target.stem, size, batch)))  # first: an .onnx always has its script
    log.info("%s: the same as PyTorch's within %.1e on %d pictures", printable(str(target)), difference, len(images))
    log.info("%s: makes an .om of it on a machine with CANN; not run on a device", printable(str(script)))


def atc_script(stem: str, size: int, batch: int = 0) -> str:
    """Return the shell script for STEM.onnx with an input of `size` pixels; the stem is quoted as one word."""
    return ATC.format(stem=shlex.quote(stem), name=printable(stem), size=size, batch=batch or 1)


def _session(content: bytes) -> Any:
    import onnxruntime

    # onnxruntime takes no path that is not UTF-8, so it gets the bytes
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _difference(detector: nn.Module, session: Any, images: Tensor, batch: int) -> float:
    """Return the largest difference of boxes and scores: in batches of the fixed size, or of one image and of all."""
    import torch

    from m2det.detect.onnx_session import run_onnx

    largest = 0.0
    for part in images.split(batch) if batch else (*images.split(1), images):
        with torch.inference_mode():
            expected = detector(part)
        for a, b in zip(expected, run_onnx(session, part), strict=True):
            largest = max(largest, float(((a - b).abs() / a.abs().clamp(min=1)).max()))
    return largest


def _compare_metrics(model: M2Det, session: Any, cache: Path) -> str:
    """Return a sentence on AP of both networks on the validation images. Raises InputError where they differ."""
    import torch

    from m2det.config import load_params
    from m2det.data.packed.reader import PackedSplit
    from m2det.detect.onnx_session import coco_results_of_session
    from m2det.evaluate.inference import coco_results_of_split
    from m2det.evaluate.metrics import coco_metrics
    from m2det.files.whole import temporary_folder
    from m2det.model import prior_boxes

    split, size, settings = PackedSplit(cache, "val"), model.config.size, load_params("params.yaml").evaluate
    cpu, everything = torch.device("cpu"), range(len(split))
    entries = {
        "PyTorch": coco_results_of_split(model, prior_boxes(model.config), split, size, cpu, settings, 0, everything),
        "onnxruntime": coco_results_of_session(session, split, size, settings),
    }
    scores = {}
    with temporary_folder() as folder:
        for name, images in entries.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps([entry for image in images for entry in image]))
            scores[name] = coco_metrics(split.ground_truth, path)["AP"]
    sentence = ", ".join(f"AP {score:.4f} in {name}" for name, score in scores.items())
    sentence += f" on {len(split)} validation images"
    if abs(scores["PyTorch"] - scores["onnxruntime"]) > MAX_AP_DIFFERENCE:
        raise InputError(f"{sentence}: they differ by more than {MAX_AP_DIFFERENCE}; nothing was written")
    return sentence


def _read_images(paths: Sequence[Path], size: int, batch: int = 1) -> Tensor:
    """Return the pictures, resized, as float32 [N,3,size,size] BGR from 0 to 255; repeated to a multiple of a batch."""
    import numpy as np
    import torch

    from m2det.data.jpeg import decode_bgr
    from m2det.data.transforms import square_of_file
    from m2det.files.regular_file import read_file

    squares = []
    for path in paths:
        data = read_file(path)
        squares.append(square_of_file(data, str(path), decode_bgr(data, str(path)), size))
    squares += [squares[i % len(squares)] for i in range(-len(squares) % max(batch, 2))]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float().contiguous()
