"""Runs that are stopped in six ways, drawn by a seed; `python -m tests.pipeline.stop_matrix` tries all of them."""

import random

import pytest

from tests.pipeline.stop_bench import Bench
from tests.pipeline.stop_matrix import CAUSES, cells_of, run_cell

pytestmark = pytest.mark.slow

LONG = ("server away 60 s, cancel",)
SEED = 5  # another one draws other cells; CLI cancel and the flow process's SIGKILL are of a training in this one
CELLS = random.Random(SEED).sample(cells_of(cause for cause in CAUSES if cause not in LONG), 6)


@pytest.fixture(scope="module")
def bench(ready, tmp_path_factory):
    # the cells stop their work a second after its begin, so that less of it is enough
    bench = Bench(tmp_path_factory.mktemp("stops"), ready, {work for _, work in CELLS}, images=1000)
    yield bench
    bench.close()


@pytest.mark.parametrize(("cause", "work"), CELLS, ids=str)
def test_a_run_that_is_stopped_leaves_no_process_a_true_state_and_goes_on(bench, cause, work):
    print(run_cell(bench, cause, work, delay=1))
