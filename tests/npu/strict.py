"""The strict simulated device under the name npu: without torch_npu, and with one rule, that devices do not mix."""

import types
from pathlib import Path

import torch


def install(library: Path) -> None:
    """Make `npu` a device of this process. Before the first backward, when autograd counts the devices."""
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend("npu")
    module = types.ModuleType("torch.npu")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.set_device = lambda _: None
    module.get_device_name = lambda _=None: "simulated NPU, strict about devices"
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    module.config = types.SimpleNamespace()  # takes what torch_npu's config takes
    module.manual_seed_all = module.manual_seed = lambda _: None
    module._is_in_bad_fork = lambda: False
    torch._register_device_module("npu", module)
    torch.accelerator.max_memory_allocated = lambda _=None: 0  # this memory keeps no statistics
    torch.utils.generate_methods_for_privateuse1_backend()
