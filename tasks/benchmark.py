"""Stage `benchmark`: the speed of each part on this machine."""

from __future__ import annotations

import logging
import sys

from tasks.common import CACHE, MODEL, RESULTS, params, write_json


def benchmark() -> None:
    """Write results/perf.json. `dvc repro -f -s benchmark` measures again."""
    from m2det.bench.parts import benchmark as measure
    from m2det.device import choose_device
    from m2det.distributed.cores import check_workers
    from m2det.model.model_file import load_trained

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    check_workers(params(), 1)
    model, _ = load_trained(MODEL)
    report = measure(params(), model, CACHE, choose_device(params().run.device))
    write_json(RESULTS / "perf.json", report)
    rates = ", ".join(f"{name} {rate:g} img/s" for name, rate in report["img_per_s"].items())
    print(f"{rates}; training is bound by {report['training_is_bound_by']}")
