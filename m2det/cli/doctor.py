"""What this machine has, and what m2det makes of it: each choice with its reason."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from m2det.config import PrecisionParams
from m2det.device import TRAITS, choose_device, describe, import_torch_npu
from m2det.errors import InputError
from m2det.model.flops import peak_flops
from m2det.train.amp import Precision


def examine() -> list[tuple[str, str]]:
    """(what, finding) pairs; nothing is changed. Choices log their reasons as they do in a training."""
    findings = [
        (
            "machine",
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        ),
        ("torch", torch.__version__),
        ("compiled NMS", "built" if find_spec("m2det.ops._nms") else "missing: run `dvc repro ops`"),
        *((name, _version(name)) for name in ("torch_npu", "hotcoco", "onnxruntime", "dvc", "prefect")),
        ("CANN and torch_npu", _npu()),
    ]
    device = choose_device("auto")
    count = torch.accelerator.device_count() if device.type != "cpu" else 0
    precision = Precision(PrecisionParams(opt_level="O1", loss_scale=32.0, dtype="auto", backend="native"), device)
    traits, peak = TRAITS[device.type], peak_flops(device)
    layout = "channels last" if traits.channels_last else "channels first (the device refuses the other)"
    return [
        *findings,
        ("device: auto", f"{device.type}: {describe(device)}" + (f", {count} of them" if count else "")),
        ("processes: auto", f"{max(count, 1)}, " + ("one per accelerator" if count else "there is no accelerator")),
        ("opt_level: O1", f"{str(precision.dtype)[6:]}, loss scale {precision.loss_scale():g}"),
        ("memory format", layout),
        ("run.compile", "works" if traits.compiles else "is refused: its compilers are packages of their own"),
        (
            "peak",
            f"{peak / 1e12:g} TFLOP/s in half precision, by its vendor" if peak else "not known: no MFU in the log",
        ),
        ("environment", ", ".join(f"{k}={v}" for k, v in traits.environment.items()) or "nothing has to be set"),
        ("joined by", torch.distributed.get_default_backend_for_device(device)),
    ]


def _version(name: str) -> str:
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return "not installed"


def _npu() -> str:
    if find_spec("torch_npu") is None:
        return "not asked for: the extra `npu` is not installed"
    try:
        import_torch_npu()
    except InputError as error:
        return str(error)
    return f"{torch.get_device_module('npu').device_count()} devices"
