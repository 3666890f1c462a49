"""`m2det doctor`: what this machine has, and what m2det chooses on it, with the reason of each choice."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from m2det.errors import InputError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("doctor", help="describe this machine, and what m2det chooses on it")
    parser.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> None:
    findings = examine()
    width = max(len(subject) for subject, _ in findings)
    print("\n".join(f"{subject:<{width}}  {finding}" for subject, finding in findings))


def examine() -> list[tuple[str, str]]:
    """Return (subject, finding) pairs; choices are made, and log their reasons, as in a training."""
    import torch

    from m2det.config import PrecisionParams
    from m2det.device import TRAITS, choose_device, device_name, graph_support, optimizer_kernels
    from m2det.distributed.threads import describe_load, describe_waiting
    from m2det.model.flops import peak_flops
    from m2det.train.amp import Precision

    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    findings = [
        ("machine", machine),
        ("torch", torch.__version__),
        ("compiled NMS", "built" if find_spec("m2det.ops._nms") else "missing: run `dvc repro ops`"),
        *((name, _version(name)) for name in ("torch_npu", "hotcoco", "onnxruntime", "dvc", "prefect")),
        ("CANN and torch_npu", _npu()),
    ]
    device = choose_device("auto")
    count = torch.accelerator.device_count() if device.type != "cpu" else 0
    precision = Precision(PrecisionParams(opt_level="O1", loss_scale=32.0, dtype="auto", backend="native"), device)
    traits, peak = TRAITS[device.type], peak_flops(device)
    graphs, reason = graph_support(device)
    layout = "channels last" if traits.channels_last else "channels first (the device refuses channels last)"
    return [
        *findings,
        ("run.device: auto", f"{device.type}: {device_name(device)}" + (f", {count} of them" if count else "")),
        (
            "run.processes: auto",
            f"{count}, one per accelerator" if count else "one per core, as far as they share a step evenly",
        ),
        ("load", f"{describe_load()}; waiting threads: {describe_waiting()}"),
        ("opt_level: O1", f"{str(precision.dtype)[6:]}, loss scale {precision.loss_scale():g}"),
        ("optimizer: sgd", "{} ({})".format(*optimizer_kernels(device, "sgd"))),
        ("memory format", layout),
        ("run.compile", "works" if traits.supports_compile else "is refused: its compilers are packages of their own"),
        ("run.graph", f"is {'allowed' if graphs else 'refused'}: {reason}"),
        ("peak", f"{peak / 1e12:g} TFLOP/s in low precision, by its vendor" if peak else "unknown: no MFU in the log"),
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
        return "not checked: the extra `npu` is not installed"
    import torch

    from m2det.device import import_torch_npu

    try:
        import_torch_npu()
    except InputError as error:
        return str(error)
    return f"{torch.get_device_module('npu').device_count()} devices"
