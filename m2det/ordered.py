"""Work shared among processes, its results in order, and no process left however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

import cv2

from m2det.errors import InputError
from m2det.process import die_with_parent

AHEAD = 48  # results that wait to be taken, and 2 more per process: what bounds the memory

Result = TypeVar("Result")
_work: Callable[[Any], Any]  # of a worker: handed over by the fork, it need not be picklable


def in_order(tasks: Iterable[Any], work: Callable[[Any], Result], processes: int) -> Generator[Result]:
    """work(task) for each task, in their order; done here where processes is 1. Close it to end the processes.

    Raises what `work` raises, and InputError where a process is killed.
    """
    if processes == 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, context, _begin, (os.getpid(), work))
    tasks = iter(tasks)
    try:
        waiting = deque(pool.submit(_call, task) for task in islice(tasks, AHEAD + 2 * processes))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(_call, task) for task in islice(tasks, 1))
            yield result
    except BrokenProcessPool as error:
        raise InputError(
            "one of the processes that prepare images was killed, perhaps because memory was short; the same command "
            "continues from the last commit"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int, work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one to the whole group is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)
    cv2.setNumThreads(0)  # one process per core already; OpenCV's pool also hangs after a fork


def _call(task: Any) -> Any:
    return _work(task)
