"""Processes that fill batches in shared memory, in an order that does not depend on them.

A batch's images are written once, straight into a slot that this process reads; only boxes go through a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import logging
import math
import multiprocessing
import shutil
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from m2det.data.dataset import Batch, Key, Objects, Sample, TrainingDataset, _batch, collate
from m2det.data.sampler import TrainingBatchSampler
from m2det.distributed.lifetime import describe_exit, end_with_starter, start
from m2det.errors import InputError

log = logging.getLogger(__name__)

SHARED = Path("/dev/shm")  # where multiprocessing puts memory that processes share, if it fits
AHEAD = 2  # batches that a worker is asked for before the first of them is taken
SECONDS_TO_END = 5.0  # a worker that was busy finishes its batch first

Crew = list[tuple[Connection, BaseProcess]]


class Filler(Protocol):
    def fill(self, key: Key, out: np.ndarray) -> Objects: ...


def filled(
    samples: Filler, batches: Iterable[list[Key]], shape: tuple[int, ...], workers: int, held: int
) -> Iterator[tuple[list[Key], np.ndarray, list[Objects]]]:
    """Each batch's keys, images uint8 of `shape`, and objects, in order; by this process where workers is 0.

    held: batches handed out that are left as they are; older ones are overwritten.

    Raises InputError as a worker raised it, or saying that one was killed.
    """
    if workers == 0:
        own = np.empty((held, *shape), np.uint8)
        for keys, images in zip(batches, itertools.cycle(own), strict=False):
            yield keys, images, [samples.fill(*pair) for pair in zip(keys, images, strict=True)]
        return
    context: Any = multiprocessing.get_context()
    count = workers * AHEAD + held
    size = count * math.prod(shape)
    if SHARED.exists() and (room := shutil.disk_usage(SHARED).free) < size:
        log.warning(
            "batches need %d MB of shared memory and %s has %d: they lie in a file on disk, which is slower; give it "
            "more (docker run --shm-size=2g), or lower run.workers",
            *(size // 10**6, SHARED, room // 10**6),
        )
    memory = context.RawArray("B", size)
    slots = np.frombuffer(memory, np.uint8).reshape(count, *shape)
    crew: Crew = []
    end = functools.partial(_end, crew)
    atexit.register(end)  # it runs before multiprocessing waits for its children, who wait for us
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, memory, slots.shape, samples), daemon=True)
            start(process)
            theirs.close()
            crew.append((ours, process))
        asked: list[list[Key]] = []
        numbered = enumerate(batches)
        for number in itertools.count():
            for later, keys in itertools.islice(numbered, workers * AHEAD - len(asked)):
                _send(crew, later % workers, (later % count, keys))
                asked.append(keys)
            if not asked:
                return
            objects = _receive(crew, number % workers)
            yield asked.pop(0), slots[number % count], objects
    finally:
        end()
        atexit.unregister(end)


def _send(crew: Crew, number: int, task: tuple[int, list[Key]]) -> None:
    try:
        crew[number][0].send(task)
    except OSError:
        raise _death(crew) from None


def _receive(crew: Crew, number: int) -> list[Objects]:
    connection, _ = crew[number]
    ready = wait([connection, *(process.sentinel for _, process in crew)])
    try:
        found = connection.recv() if connection in ready else None
    except (EOFError, OSError):
        found = None
    if found is None:
        raise _death(crew)
    if isinstance(found, InputError):
        raise found
    if isinstance(found, str):
        raise RuntimeError(f"a data-loading process failed: {found.splitlines()[-1]}\n{found}")
    return found


def _death(crew: Crew) -> InputError:
    ended = wait([process.sentinel for _, process in crew])
    dead = next(process for _, process in crew if process.sentinel in ended)
    dead.join()
    if dead.exitcode in (-signal.SIGBUS, -signal.SIGSEGV):
        advice = "damage in the tree of an LMDB file does that: `m2det data verify` tells"
    else:
        advice = "lower run.workers or train.batch_size if memory is short"
    return InputError(
        f"the data-loading process {dead.pid} was killed ({describe_exit(dead.exitcode)}); {advice}; "
        "the same command continues from the last checkpoint"
    )


def _end(crew: Crew) -> None:
    for connection, _ in crew:
        with contextlib.suppress(OSError):  # it is dead
            connection.send(None)
    deadline = time.monotonic() + SECONDS_TO_END
    for connection, process in crew:
        process.join(max(0.0, deadline - time.monotonic()))
        connection.close()
        process.kill()
        process.join()
    crew.clear()


def _work(connection: Connection, memory: Any, shape: tuple[int, ...], samples: Filler) -> None:
    end_with_starter()
    cv2.setNumThreads(0)  # one process per core already; OpenCV's and OpenMP's pools also hang after a fork
    torch.set_num_threads(1)
    slots = np.frombuffer(memory, np.uint8).reshape(shape)
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    # the pipe does not tell of the trainer's death: a forked process has inherited its other end, too
    while wait([connection, trainer.sentinel]) and connection.poll() and (task := connection.recv()):
        slot, keys = task
        answer: list[Objects] | InputError | str
        try:
            answer = [samples.fill(key, image) for key, image in zip(keys, slots[slot], strict=True)]
        except InputError as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        connection.send(answer)


def training_loader(samples: TrainingDataset, order: TrainingBatchSampler, workers: int, pin: bool) -> Iterator[Batch]:
    """One pass over `order`, which holds all epochs, so that workers start once.

    pin copies each batch to pinned memory, whose allocator keeps it until the device has read it. Without, a batch
    is a view of a slot, which is overwritten when the batches of the next step have been taken.
    """
    shape = (order.microbatch, samples.size, samples.size, 3)
    for keys, images, objects in filled(samples, order, shape, workers, held=order.accumulation + 1):
        batch = _batch(images, objects, [index for _, index in keys])
        yield batch.pin_memory() if pin else batch


def plain_loader(samples: Dataset[Sample], batch_size: int, workers: int) -> DataLoader[Sample]:
    """Every image once, in order."""
    return DataLoader(samples, batch_size, num_workers=workers, collate_fn=collate, worker_init_fn=_start_worker)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one process per core already; OpenCV's pool also hangs after a fork
