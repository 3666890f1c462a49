"""What differs between cpu, cuda and npu: one small table over torch.accelerator."""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch

from m2det.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Traits:
    """half: the type that O1 computes in; channels_last: whether that memory format works and pays;
    compiles: whether torch.compile does; skips: whether its fused optimizers read the flag that has them leave a
    step out (found_inf) without waiting; environment: what must be set before its processes start."""

    half: torch.dtype
    channels_last: bool
    compiles: bool
    skips: bool
    environment: Mapping[str, str] = field(default_factory=dict)


TRAITS = {
    "cpu": Traits(half=torch.bfloat16, channels_last=True, compiles=True, skips=True),
    "cuda": Traits(half=torch.float16, channels_last=True, compiles=True, skips=True),
    "npu": Traits(
        half=torch.float16,
        channels_last=False,  # raises there
        compiles=False,  # its compilers are packages of their own, which we have not tried
        skips=False,  # op-plugin: fused SGD's kernel reads the flag to the host, fused AdamW's not at all
        environment={  # Ascend/pytorch, docs/zh/api/environment_variable
            "TASK_QUEUE_ENABLE": "2",  # operators are queued and launched by threads of their own
            "CPU_AFFINITY_CONF": "2",  # each device's threads keep to cores of their own (the original: taskset)
            "HCCL_CONNECT_TIMEOUT": "1200",  # seconds; one process may compile operators while others wait
            "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",  # less fragmentation
        },
    ),
}


@cache
def choose_device(wanted: str) -> torch.device:
    """auto, cpu, cuda or npu -> a device; the choice is logged with its reason, once.

    Raises InputError where the wanted device is not there.
    """
    if wanted == "npu":
        import_torch_npu()
    if wanted == "cpu":
        log.info("device: cpu, as asked for")
        return torch.device("cpu")
    found = torch.accelerator.current_accelerator(check_available=True)
    if wanted == "auto":
        if found and found.type in TRAITS:
            log.info("device: %s, the accelerator that is there", found)
            return found
        log.info("device: cpu, %s", f"{found.type} is not supported" if found else "no accelerator is there")
        return torch.device("cpu")
    if found is None or found.type != wanted:
        raise InputError(
            f"run.device is {wanted!r}, but this machine has {found.type if found else 'no accelerator'}; "
            "set run.device: auto, or install the driver and the matching build of torch"
        )
    log.info("device: %s, as asked for", wanted)
    return found


def import_torch_npu() -> None:
    """The one place that imports it. Raises InputError naming CANN where it does not load."""
    try:
        importlib.import_module("torch_npu")
    except ImportError as error:
        raise InputError(
            f"run.device is 'npu', but torch_npu does not load ({error}); install the extra: pip install 'm2det[npu]', "
            "and load CANN: source /usr/local/Ascend/ascend-toolkit/set_env.sh"
        ) from error


def autocast_dtype(device: torch.device, wanted: str) -> tuple[torch.dtype, str]:
    """The type that O1's autocast computes in, and why; float32 means that no half type pays on this device."""
    if wanted != "auto":
        return getattr(torch, wanted), "as asked for"
    if device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        return torch.float32, "this CPU has no avx512_bf16, bfloat16 would be slower"
    reason = "this CPU has avx512_bf16" if device.type == "cpu" else f"the half type of {device.type}"
    return TRAITS[device.type].half, reason


def to_device(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """To the device, in the memory format that suits it."""
    if TRAITS[device.type].channels_last:
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def convert_sync_bn(model: torch.nn.Module, device: torch.device) -> None:
    """Give the model batch normalisation over all processes' images. Raises InputError on a CPU."""
    if device.type == "cpu":
        raise InputError("train.sync_bn is true, but a CPU has no synchronised batch normalisation; set it to false")
    log.info("batch normalisation: over the images of all processes")
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)


def use_fused_optimizer(device: torch.device, optimizer: Literal["sgd", "adamw"]) -> tuple[bool, str]:
    """Whether to use torch's fused kernel of the optimizer, rather than one over lists of tensors, and why."""
    if device.type != "npu":
        return True, f"{device.type} has it"
    if optimizer == "adamw":
        return False, "torch_npu's fused AdamW cannot leave a step out"
    name = torch.get_device_module("npu").get_device_name(device)
    if re.search(r"Ascend910B\d|Ascend910_93", name):
        return True, f"{name} has it"
    return False, f"its kernel aclnnFusedSgd is documented for Atlas A2 and A3, not for {name}"


def compile_model(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network by torch.compile, on fixed shapes; its parameters stay the same objects.

    Raises InputError where that does not work.
    """
    if not TRAITS[device.type].compiles:
        raise InputError(f"run.compile is true, which this project does not support on {device.type}; set it false")
    log.info("network: compiled by torch.compile; the first steps take minutes")
    return torch.compile(network, dynamic=False)  # type: ignore[return-value]


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is true; nothing to wait for on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def describe(device: torch.device) -> str:
    """The device's name, for reports: never part of anything that a hash covers."""
    if device.type == "cpu":
        import platform

        return f"{_cpu_model() or platform.machine()}, {torch.get_num_threads()} threads"
    name: str = torch.get_device_module(device.type).get_device_name(device)
    return name


def _cpu_model() -> str:
    from pathlib import Path

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def reset_peak_memory(device: torch.device) -> None:
    """Begin anew what peak_memory says; on a CPU it is the whole process's life."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had: of the device's memory, or of the CPU's."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in KiB
