"""Stage `performance`: the speed of training on this machine, as the ModelZoo baseline measures it."""

from __future__ import annotations

import json
import logging
import sys

from m2det.data.packed.reader import cache_digest
from m2det.distributed.children import run_child
from m2det.files.inputs import FOLDER
from tasks.common import BACKBONE, CACHE, RESULTS, params, write_json
from tasks.inputs import inputs_of


def performance() -> None:
    """Write results/performance.json, and results/speed.json, its img/s alone, as a metric that compares.

    `dvc repro -f -s performance` measures again.
    """
    from m2det.bench.throughput import RESULT, compare, measure
    from m2det.distributed.cores import check_workers
    from m2det.distributed.group import Group
    from m2det.distributed.launch import count_processes, kept_if_failed, launch, needs_torchrun
    from m2det.distributed.nodes import Work

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    processes = count_processes(params())
    check_workers(params(), processes)
    if needs_torchrun(params(), processes):
        with kept_if_failed("performance") as folder:
            arguments = (inputs_of("performance").keep(folder / FOLDER), CACHE, BACKBONE, folder)
            inputs = (arguments[0], BACKBONE)
            work = Work("m2det.bench.throughput", arguments, folder, inputs, CACHE, cache_digest(CACHE))
            launch(work, params(), processes, run_child)
            result = json.loads((folder / RESULT).read_text())
    else:
        result = measure(params(), CACHE, BACKBONE, Group())
    write_json(RESULTS / "performance.json", result)
    write_json(RESULTS / "speed.json", {"img/s": result["img_per_s"]})
    print(compare(result))
