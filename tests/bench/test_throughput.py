"""The ModelZoo baseline's measure of speed: its keys, and the device and figures that it is compared with."""

import json
import logging
import os
from types import SimpleNamespace

import pytest
import torch

from m2det.bench import throughput
from m2det.bench.throughput import RESULT, compare, measure
from m2det.config import Params
from m2det.device import choose_device
from m2det.distributed.children import run_child
from m2det.distributed.group import Group
from m2det.distributed.launch import launch
from m2det.distributed.nodes import Work
from m2det.model.flops import peak_flops
from tests.training import settings, write_params

KEYS = [
    "img_per_s",
    "step_s_p50",
    "tflop_per_s",
    "mfu",
    "processes",
    "images_per_step",
    "model",
    "objective",
    "precision",
]
KEYS += ["device", "device_name", "threads", "load_average", "torch"]


def few(**changes) -> Params:
    params = settings(**{"batch_size": 2} | changes)
    return params.model_copy(update={"benchmark": params.benchmark.model_copy(update={"warmup": 1, "steps": 3})})


def test_the_mean_and_the_median_are_of_the_steps_after_the_warmup(material, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 5.0, 9.0))
    clock = iter([100.0, 101.0, 103.0, 109.0])  # at the end of the warm-up step and of the 3 that count
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    result = measure(few(batch_size=4, microbatch=2), *material, Group())
    assert list(result) == KEYS
    assert (result["processes"], result["images_per_step"], result["mfu"]) == (1, 4, None)
    assert (result["img_per_s"], result["step_s_p50"]) == (round(3 * 4 / 9, 3), 2.0)
    assert (result["load_average"], result["threads"]) == (1.23, torch.get_num_threads())


def test_the_report_names_the_device_and_the_published_figures():
    found = {"img_per_s": 12.5, "step_s_p50": 1.28, "processes": 1, "images_per_step": 16, "precision": "float16"}
    found |= {"model": "m2det512-vgg16", "objective": "multibox", "device": "cpu", "device_name": "a CPU"}
    found |= {"load_average": 0.25, "threads": 2}
    text = compare(found)
    assert "4.638 img/s with 1, 60.997 img/s with 8 processes" in text and "Ascend 910" in text
    assert "on a CPU (cpu: NOT an NPU)" in text and text.endswith("the same model, objective and batch")
    assert "load average of the machine 0.25 in the minute before, threads of torch per process: 2" in text
    assert "load average of the machine unknown" in compare(found | {"load_average": None})
    assert "NOT" not in compare(found | {"device": "npu", "device_name": "Ascend910B3"})
    assert "on a CPU in 2 processes (cpu" in compare(found | {"processes": 2})
    assert ", on 8 x Ascend910B3\n" in compare(found | {"processes": 8, "device": "npu", "device_name": "Ascend910B3"})
    assert compare(found | {"model": "m2det-tiny"}).endswith("not comparable: this is m2det-tiny with multibox")


def test_peaks_are_found_by_name_and_unknown_ones_are_not_guessed(monkeypatch):
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "Ascend910B3": 313e12, "Ascend910_9391": 0.0}
    names |= {"NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA RTX A1000": 0.0, "NVIDIA L40": 0.0, "NVIDIA L4": 121e12}
    for name, peak in names.items():
        module = type("module", (), {"get_device_name": staticmethod(lambda _, name=name: name)})
        monkeypatch.setattr(torch, "get_device_module", lambda _, module=module: module)
        assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(torch.device("cpu")) == 0.0


def test_a_device_is_chosen_once_and_logged_once(caplog):
    caplog.set_level(logging.INFO)
    choose_device.cache_clear()
    choose_device("cpu"), choose_device("cpu")
    assert caplog.text.count("device: cpu (requested)") == 1


@pytest.mark.long  # tests/pipeline/test_prefect.py has eight
def test_two_processes_measure_together(material, tmp_path):
    params_file = write_params(tmp_path, device="cpu")
    params = few(batch_size=4, processes=2)
    launch(Work("m2det.bench.throughput", (params_file, *material, tmp_path), tmp_path), params, 2, run_child)
    found = json.loads((tmp_path / RESULT).read_text())
    assert (found["processes"], found["images_per_step"]) == (2, 4)
