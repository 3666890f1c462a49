"""What the simulator's environment does when Python starts in it, where M2DET_SIMULATED_NPU is 1.

It loads the stand-ins for CANN's libraries, and sends torch_npu's operators to the CPU as soon as something has
imported the real torch_npu; who does, and when, is left to torch and to the program.
"""

import ctypes
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

from m2det_simulated_chips import family, refusal

HERE = Path(__file__).parent / "m2det_simulated_npu_lib"
CHIP = os.environ.get("M2DET_SIMULATED_CHIP", "Ascend910B1")
KEPT = (  # memory and composites are torch_npu's own; copies, convolution and normalisation are in operators.cpp
    *("copy_", "_local_scalar_dense", "_convolution", "to", "_to_copy", "is_pinned", "_pin_memory", "pin_memory"),
    *("record_stream", "batch_norm", "native_batch_norm", "_has_same_storage_numel"),
)
KEPT_FAMILIES = ("empty", "new_empty", "resize", "set_", "_copy_from", "convolution")


def redirect_operators():
    import torch
    import torch_npu

    torch.ops.load_library(HERE / "operators.so")
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1")
    names = [name for name in registered if name.startswith("aten::") and not is_kept(name, torch)]
    for name in names:
        if reason := refusal(name, CHIP):
            torch.ops.simulated_npu.refuse(name, reason)
    torch.ops.simulated_npu.redirect(names)
    chip = torch_npu.npu.get_device_name
    torch_npu.npu.get_device_name = lambda device=None: f"simulated NPU ({chip(device)}), host memory"


def is_kept(name, torch):
    """Whether torch_npu's own kernel works without a device: views must share their storage."""
    base, _, overload = name.removeprefix("aten::").partition(".")
    if base in KEPT or base.startswith(KEPT_FAMILIES):
        return True
    try:
        schema = torch._C._get_schema(f"aten::{base}", overload)
    except RuntimeError:  # registered, but no operator of this version
        return True
    return any(result.alias_info and not result.alias_info.is_write for result in schema.returns)


class AfterTorchNpu(MetaPathFinder, Loader):
    """Imports torch_npu as Python would, then redirects its operators."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch_npu":
            return None
        spec = PathFinder.find_spec(name, path, target)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        redirect_operators()


if os.environ.get("M2DET_SIMULATED_NPU") == "1":
    os.environ["M2DET_SIMULATED_CHIP"] = CHIP
    os.environ["M2DET_SIMULATED_JIT_COMPILE"] = "disable" if family(CHIP) else "enable"
    os.environ.setdefault("TASK_QUEUE_ENABLE", "0")  # what is redirected has run at once: nothing may wait in a queue
    for library in HERE.glob("lib*.so"):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    sys.meta_path.insert(0, AfterTorchNpu())
