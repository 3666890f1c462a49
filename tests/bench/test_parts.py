"""results/perf.json says what was measured, on what, and how busy the machine was."""

import os

import torch

from m2det.bench.parts import benchmark
from m2det.model import build_model
from tests.training import settings


def test_the_speeds_of_the_parts_come_with_the_load_of_the_machine_before(material, monkeypatch):
    loads = iter([(1.234, 5.0, 9.0), (7.0, 5.0, 9.0)])
    monkeypatch.setattr(os, "getloadavg", lambda: next(loads))
    params = settings(batch_size=2)
    params = params.model_copy(
        update={"benchmark": params.benchmark.model_copy(update={"batch_size": 2, "warmup": 1, "steps": 2})}
    )
    report = benchmark(params, build_model("m2det-tiny", 1, sfam=True), material[0], torch.device("cpu"))
    assert (report["load_average"], report["threads"]) == (1.23, torch.get_num_threads())
    assert all(rate > 0 for rate in report["img_per_s"].values())
