"""What the library's NPU path uses of torch_npu and torch is there, and means what we take it for.

On the real torch_npu package over a simulation of CANN.
"""

import inspect
import json
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from m2det.device import choose_device, device_name, import_torch_npu, synchronize
from m2det.distributed.launch import count_processes
from m2det.model import build_model
from tests.npu.training import settings, train

pytestmark = [pytest.mark.slow, pytest.mark.inside("torch_npu")]


def test_torch_finds_the_npu_by_itself():
    assert "torch_npu" in sys.modules, "torch imports it, nobody here did"
    import_torch_npu()
    assert torch.accelerator.current_accelerator(check_available=True) == torch.device("npu")
    assert torch.get_device_module("npu") is torch.npu


@pytest.mark.parametrize("wanted", ["npu", "auto"])
def test_the_device_is_chosen_and_described(wanted, caplog):
    caplog.set_level("INFO")
    device = choose_device(wanted)
    assert device.type == "npu" and "device: npu" in caplog.text
    assert device_name(device).startswith("simulated NPU")
    synchronize(device)


def test_processes_are_one_per_npu_and_joined_by_hccl(caplog):
    assert count_processes(settings("npu", processes="auto", batch_size=16, microbatch=8)) == 2
    assert not caplog.records
    assert count_processes(settings("npu", processes="auto", batch_size=16, microbatch=16)) == 1
    assert "1 of 2 npu devices, since these share a step's 16 images in microbatches of 16" in caplog.text
    assert dist.get_default_backend_for_device("npu") == "hccl"
    assert dist.get_default_backend_for_device(torch.device("npu", 1)) == "hccl"


def test_signatures_are_those_that_we_call():
    inspect.signature(torch.npu.get_device_name).bind(torch.device("npu"))
    inspect.signature(torch.autocast).bind("npu", dtype=torch.float16, enabled=True)
    inspect.signature(torch.amp.GradScaler).bind("npu", init_scale=32.0)
    assert {torch.float16, torch.bfloat16} <= set(torch.npu.get_amp_supported_dtype())


def test_batches_are_pinned_for_the_npu():
    pinned = torch.ones(4).pin_memory()
    assert pinned.is_pinned() and torch.equal(pinned.to("npu", non_blocking=True).cpu(), torch.ones(4))


def test_one_seed_seeds_the_npu_too():
    torch.manual_seed(3)
    assert torch.npu.initial_seed() == 3


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", ["multibox", "aligned"])
def test_every_operator_of_a_training_has_a_kernel_in_the_package(material, tmp_path, objective):
    """Of torch_npu itself, as the wheel registers them: what upstream composes of others need not have one."""
    with Names() as names:
        train(material, tmp_path, settings("npu", steps=2, max_grad_norm=10.0, objective=objective))
    operators = {name for name in names.seen if name.startswith("aten::")}
    assert {"aten::convolution", "aten::_fused_sgd_", "aten::sort.stable"} <= operators
    code = "import json, torch; print(json.dumps(torch._C._dispatch_get_registrations_for_dispatch_key('PrivateUse1')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    registered = {name.removesuffix(".") for name in json.loads(done.stdout.splitlines()[-1])}
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = ["CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"]
    composed = {operator for operator in operators if any(has(operator, name) for name in names)}
    assert operators - registered - composed == set()


def test_channels_last_is_refused_as_the_table_says():
    model = build_model("m2det-tiny", 1).to("npu")
    with pytest.raises(RuntimeError):
        model.to(memory_format=torch.channels_last)
