"""Work shared among threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered_map(
    tasks: Iterable[Task], work: Callable[[Task], Result], threads: int, weigh: Callable[[Task], int], most: int
) -> Generator[Result]:
    """work(task) for each task, in their order. Raises what `work` raises, in its turn. Close it to end the threads.

    What is begun and not yet taken weighs no more than `most`, or is one task for each thread.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    held = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            while held + weigh(task) > most and len(waiting) >= threads:
                held -= waiting[0][1]
                yield waiting.popleft()[0].result()
            waiting.append((pool.submit(work, task), weigh(task)))
            held += weigh(task)
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
