"""How cpu, cuda and npu differ: one table, and the choices that depend on the device."""

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
    """What a type of device supports.

    Attributes:
        autocast_dtype: The low-precision dtype of autocast (opt_level O1).
        channels_last: Whether that memory format works and is faster.
        supports_compile: Whether torch.compile works.
        supports_graphs: Whether torch can capture graphs; of an NPU the chip decides, too.
        fused_supports_found_inf: Whether the fused optimizers skip a step by the flag `found_inf` on the device,
            without a synchronization.
        environment: Environment variables to set before the processes start.
        network: Environment variables of the backend that connects machines: templates of {interface} and {address}.
        deterministic: More of them, for run.deterministic.
    """

    autocast_dtype: torch.dtype
    channels_last: bool = True
    supports_compile: bool = True
    supports_graphs: bool = True
    fused_supports_found_inf: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, str] = field(default_factory=dict)
    deterministic: Mapping[str, str] = field(default_factory=dict)


TRAITS = {
    "cpu": Traits(torch.bfloat16, supports_graphs=False, network={"GLOO_SOCKET_IFNAME": "{interface}"}),
    "cuda": Traits(
        torch.float16,
        # without "=" it is the beginning of names
        network={"NCCL_SOCKET_IFNAME": "={interface}"},
        deterministic={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},  # else torch refuses cuBLAS, whose streams share memory
    ),
    "npu": Traits(
        torch.float16,
        channels_last=False,  # torch_npu raises
        supports_compile=False,  # its compilers are packages of their own, which were not tried
        fused_supports_found_inf=False,  # op-plugin: fused SGD reads the flag on the host, fused AdamW ignores it
        environment={  # Ascend/pytorch, docs/zh/api/environment_variable
            "TASK_QUEUE_ENABLE": "2",  # separate threads queue and launch the operators
            "CPU_AFFINITY_CONF": "2",  # each device's threads keep to cores of their own (the original: taskset)
            "HCCL_CONNECT_TIMEOUT": "1200",  # seconds; one process may compile operators while others wait
            "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",  # less fragmentation
        },
        network={"HCCL_IF_IP": "{address}"},  # Ascend's documents: it comes before HCCL_SOCKET_IFNAME
        deterministic={"HCCL_DETERMINISTIC": "true"},  # sums over processes in one order
    ),
}


@dataclass(frozen=True)
class Chips:
    """A family of Ascend chips, and what CANN documents for it: kernels over lists of tensors, captured graphs.

    Attributes:
        family: Its name in those documents.
        foreach: Whether there are kernels for those of torch's foreach operators that a training uses.
        fused_sgd: Whether there is a kernel for a whole step of SGD.
        graphs: Whether tasks can be captured and replayed.
    """

    family: str
    foreach: bool
    fused_sgd: bool
    graphs: bool


# By patterns of torch_npu's names. Documents: hicann/ops-nn, foreach/*/docs and optim/fused_sgd/docs/aclnnFusedSgd.md;
# for graphs CANN 9's aclmdlRICaptureBegin and asc-devkit's example 04_aclgraph.
CHIPS = {
    # without a digit it is an original 910
    r"Ascend910B\d": Chips("Atlas A2", foreach=True, fused_sgd=True, graphs=True),
    r"Ascend910_93": Chips("Atlas A3", foreach=True, fused_sgd=True, graphs=True),
    # aclnnFusedSgd names this family since 2026, but others found no kernel of it in the CANN that they had
    r"Ascend950": Chips("Ascend 950", foreach=True, fused_sgd=False, graphs=True),
}
OTHER_CHIPS = Chips("another family than Atlas A2, A3 or Ascend 950", foreach=False, fused_sgd=False, graphs=False)


@cache
def choose_device(device_type: str) -> torch.device:
    """Return the device for `device_type`: auto, cpu, cuda or npu. Log the choice and its reason, once.

    Raises:
        InputError: The machine has no such device.
    """
    device, reason = _choice(device_type)
    log.info("device: %s (%s)", device, reason)
    if device.type == "npu":
        # else an original 910 keeps weights and their gradients in formats that most aclnn kernels refuse; no device
        # is initialized by this, and it holds for all that is moved later
        torch.get_device_module("npu").config.allow_internal_format = False
    return device


def reason_of_device(device_type: str) -> str:
    """Return why `choose_device` chooses what it does."""
    return _choice(device_type)[1]


def _choice(device_type: str) -> tuple[torch.device, str]:
    if device_type == "npu":
        import_torch_npu()
    device, reason = torch.device("cpu"), "requested"
    if device_type != "cpu":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        available = accelerator.type if accelerator else "no accelerator"
        if device_type not in ("auto", available):
            raise InputError(
                f"run.device is {device_type!r}, but this machine has {available}; set run.device: auto, or install "
                "the driver and the matching build of torch"
            )
        if accelerator and available in TRAITS:
            device, reason = accelerator, "the available accelerator" if device_type == "auto" else "requested"
        else:
            reason = f"{available} is not supported" if accelerator else available
    return device, reason


def environment_of(device: torch.device, deterministic: bool) -> dict[str, str]:
    """Return the environment variables to set before processes that use the device start."""
    traits = TRAITS[device.type]
    return {**traits.environment, **(traits.deterministic if deterministic else {})}


def network_environment(device: torch.device, interface: str, address: str) -> dict[str, str]:
    """Return the environment variables by which the device's backend takes a network interface of this machine.

    Args:
        device: The device that computes.
        interface: Such as eth0.
        address: Of this machine on it.
    """
    templates = TRAITS[device.type].network.items()
    return {name: template.format(interface=interface, address=address) for name, template in templates}


def set_determinism(deterministic: bool) -> None:
    """Let torch use only algorithms that give equal bits for equal inputs, where that is wanted, in this process.

    Torch raises an error for an operator that has none on the device.
    """
    torch.use_deterministic_algorithms(deterministic)


def import_torch_npu() -> None:
    """Import torch_npu, which only this function does. Raises InputError naming CANN where the import fails."""
    try:
        importlib.import_module("torch_npu")
    except ImportError as error:
        raise InputError(
            f"run.device is 'npu', but torch_npu does not load ({error}); install the extra: pip install 'm2det[npu]', "
            "and load CANN: source /usr/local/Ascend/ascend-toolkit/set_env.sh"
        ) from error


def autocast_dtype(device: torch.device, name: str) -> tuple[torch.dtype, str]:
    """Return the low-precision dtype of autocast (opt_level O1), and the reason.

    Args:
        device: The device that computes.
        name: precision.dtype: a torch dtype's name, or auto for the device's own.

    Returns:
        (dtype, reason); float32 where low precision would be slower.

    Raises:
        InputError: The NPU has no such dtype.
    """
    if name != "auto":
        dtype = getattr(torch, name)
        if device.type == "npu" and dtype not in torch.get_device_module("npu").get_amp_supported_dtype():
            # torch would warn, and compute in float32
            raise InputError(
                f"precision.dtype is {name}, which {device_name(device)} does not support; set it to float16 or auto"
            )
        return dtype, "set by precision.dtype"
    if device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        return torch.float32, "CPU has no avx512_bf16: bfloat16 would be slower"
    reason = "CPU has avx512_bf16" if device.type == "cpu" else f"the low-precision dtype of {device.type}"
    return TRAITS[device.type].autocast_dtype, reason


def to_device(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Move the model to the device, in the device's memory format."""
    if TRAITS[device.type].channels_last:
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def to_memory_format(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the images [B,3,S,S] in the device's memory format."""
    return images.contiguous(memory_format=torch.channels_last) if TRAITS[device.type].channels_last else images


def convert_sync_bn(model: torch.nn.Module, device: torch.device) -> None:
    """Make batch normalization use the images of all processes, in place. Raises InputError on a CPU."""
    if device.type == "cpu":
        raise InputError("train.sync_bn is true, but a CPU has no synchronized batch normalization; set it to false")
    log.info("batch normalization: over the images of all processes")
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)


def optimizer_kernels(
    device: torch.device, optimizer: Literal["sgd", "adamw"]
) -> tuple[Literal["fused", "foreach", "for-loop"], str]:
    """Return which of torch's implementations of the optimizer to use, by their names there, and the reason."""
    if device.type != "npu":
        return "fused", f"supported on {device.type}"
    name, chips = npu_chips(device)
    if not chips.foreach:
        return "for-loop", f"CANN documents no kernels over lists of tensors for {name}"
    if optimizer == "adamw":
        return "foreach", "torch_npu's fused AdamW cannot skip a step"
    if not chips.fused_sgd:
        return "foreach", f"the kernel of the fused SGD is not sure to be there for {name}"
    return "fused", f"its kernel is documented for {chips.family}: {name}"


def supports_foreach(device: torch.device) -> bool:
    """Return whether to use torch's foreach operators, rather than a loop over the tensors."""
    return device.type != "npu" or npu_chips(device)[1].foreach


def npu_chips(device: torch.device) -> tuple[str, Chips]:
    """Return the name of the NPU's chip and its family."""
    name: str = torch.get_device_module("npu").get_device_name(device)
    return name, next((chips for pattern, chips in CHIPS.items() if re.search(pattern, name)), OTHER_CHIPS)


def compile_model(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return the network compiled by torch.compile for fixed shapes, with the same parameter objects.

    Raises:
        InputError: The device does not support it.
    """
    if not TRAITS[device.type].supports_compile:
        raise InputError(f"run.compile is true, which this project does not support on {device.type}; set it false")
    log.info("network: compiled by torch.compile; the first steps take minutes")
    return torch.compile(network, dynamic=False)  # type: ignore[return-value]


def graph_support(device: torch.device) -> tuple[bool, str]:
    """Return whether run.graph works on the device, and the reason."""
    if device.type != "npu":
        supported = TRAITS[device.type].supports_graphs
        return supported, f"supported on {device.type}" if supported else f"torch captures no graphs on {device.type}"
    name, chips = npu_chips(device)
    if not chips.graphs:
        return False, f"CANN documents no captured graphs for {name}"
    return True, f"documented for {chips.family}: {name}"


def capture_graphs(
    sections: tuple[torch.nn.Module, ...], inputs: tuple[tuple[torch.Tensor, ...], ...], device: torch.device
) -> tuple[torch.nn.Module, ...]:
    """Capture the forward and backward pass of each section, and return the sections with a `forward` that replays.

    Args:
        sections: In the order in which they run: their graphs share memory.
        inputs: Example arguments of each section. They become the graphs' input buffers.
        device: Where sections and inputs are.
    """
    backend = torch.get_device_module(device.type)
    if device.type == "npu":  # torch_npu refuses to capture at level 2 of its queue, which TRAITS asks for
        backend.set_task_queue_enable(min(1, backend.get_task_queue_enable()))
    return backend.make_graphed_callables(sections, inputs)


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything, so that a time measured next is true; on a CPU do nothing."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return the device's name, for reports; no hash covers it."""
    if device.type == "cpu":
        import platform

        threads = torch.get_num_threads()
        return f"{_cpu_model() or platform.machine()}, {threads} thread{'s'[: threads > 1]}"
    name: str = torch.get_device_module(device.type).get_device_name(device)
    return name


def _cpu_model() -> str:
    from pathlib import Path

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def limit_memory(device: torch.device, share: float) -> int:
    """Let this process have a share of the memory that is free now, and return that in bytes.

    What needs more then fails as `is_out_of_memory` tells, and harms no other process.

    Args:
        device: The device; for a CPU the host's memory is limited.
        share: Above 0, at most 1.
    """
    if device.type != "cpu":
        backend = torch.get_device_module(device.type)
        free, total = backend.mem_get_info(device)
        backend.set_per_process_memory_fraction(share * free / total, device.index)
        return int(share * free)
    import resource

    limit = int(share * available_host_memory())
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # of what a process may write and shares with no other
    return limit


def available_host_memory() -> int:
    """Return the bytes of the host's memory that processes can still get, without swapping; of a container its own."""
    from pathlib import Path

    group = Path("/sys/fs/cgroup")
    try:
        used, allowed = (int((group / f"memory.{name}").read_text()) for name in ("current", "max"))
    except (OSError, ValueError):  # no such file, or "max": no limit
        used, allowed = 0, sys.maxsize
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, allowed - used)
    raise InputError("/proc/meminfo has no line MemAvailable; the memory of this machine is not known")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error says that memory is short: torch's own for accelerators, several kinds on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(re.search(r"(?i)allocat|out of memory|bad_alloc", str(error)))


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of `peak_memory`; a CPU's always covers the whole process."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return the maximum memory of this process in bytes: the device's, or on a CPU the host's."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
