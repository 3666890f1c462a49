"""Work shared among threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

AHEAD = 48  # results that wait to be taken, and 2 more per thread: what bounds the memory

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(tasks: Iterable[Task], work: Callable[[Task], Result], threads: int) -> Generator[Result]:
    """work(task) for each task, in their order. Raises what `work` raises, in its turn. Close it to end the threads."""
    tasks = iter(tasks)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = deque(pool.submit(work, task) for task in islice(tasks, AHEAD + 2 * threads))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, task) for task in islice(tasks, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
