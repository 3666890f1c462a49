"""Work shared among threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered_map(
    tasks: Iterable[Task], work: Callable[[Task], Result], threads: int, cost: Callable[[Task], int], max_in_flight: int
) -> Generator[Result]:
    """Yield work(task) for each task, in their order; closing the generator ends the threads.

    Args:
        tasks: taken one by one as room is left for them.
        work: called in a thread; an exception is raised in its task's turn.
        threads: of the pool.
        cost: of a task, such as its bytes.
        max_in_flight: most cost of all tasks that are begun and whose results are not yet taken; one task for each
            thread is always begun.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    in_flight = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            while in_flight + cost(task) > max_in_flight and len(waiting) >= threads:
                in_flight -= waiting[0][1]
                yield waiting.popleft()[0].result()
            waiting.append((pool.submit(work, task), cost(task)))
            in_flight += cost(task)
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
