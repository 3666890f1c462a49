"""Processes that write samples into batches in shared memory, in an order that does not depend on them.

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
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from m2det.data.batch import Batch, make_batch
from m2det.data.dataset import Key, Objects, PlainDataset, TrainingDataset
from m2det.data.packed.reader import PackedSplit
from m2det.data.sampler import TrainingBatchSampler
from m2det.distributed.lifetime import describe_exit, end_with_starter, start
from m2det.errors import InputError

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # where multiprocessing puts memory that processes share, if it fits
PREFETCH_FACTOR = 2  # batches that each worker has been asked for and that are not yet taken
SECONDS_TO_END = 5.0  # for a worker to finish its batch

Workers = list[tuple[Connection, BaseProcess]]


def training_loader(
    dataset: TrainingDataset, sampler: TrainingBatchSampler, workers: int, pin: bool
) -> Iterator[Batch]:
    """Yield the batches of one pass over the sampler, which holds all epochs, so that workers start once.

    Args:
        dataset: of the samples.
        sampler: the keys of each batch.
        workers: processes; 0 for this one.
        pin: for an accelerator: copy each batch to pinned memory, whose allocator keeps it until the device has read
            it. Without, a batch is a view of a slot, which is overwritten when the batches of the next step have been
            taken.
    """
    shape = (sampler.microbatch, dataset.size, dataset.size, 3)
    slots_in_use = sampler.accumulation + 1
    context = server_context() if pin else multiprocessing.get_context()
    for keys, images, objects in worker_batches(dataset, sampler, shape, workers, slots_in_use, context):
        batch = make_batch(images, objects, [index for _, index in keys])
        yield batch.pin_memory() if pin else batch


def validation_loader(
    split: PackedSplit, size: int, indices: Sequence[int], batch_size: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Yield images of a split that are only resized, in order; the last batch may be smaller.

    Args:
        split: of the images.
        size: side of the network's input, px.
        indices: positions of the images in the split.
        batch_size: images of a batch.
        workers: processes; 0 for this one.
        pin: as for training_loader; without, a batch is overwritten when the next one has been taken.
    """
    batches = [[(0, i) for i in indices[at : at + batch_size]] for at in range(0, len(indices), batch_size)]
    workers, shape = min(workers, len(batches)), (min(batch_size, len(indices)), size, size, 3)
    context = server_context() if pin else multiprocessing.get_context()
    for keys, images, objects in worker_batches(PlainDataset(split, size), batches, shape, workers, 1, context):
        batch = make_batch(images, objects, [index for _, index in keys])
        yield batch.pin_memory() if pin else batch


def server_context() -> BaseContext:
    """Return multiprocessing's context for workers of a process that has an accelerator and a thread that writes.

    A fork would copy the device's driver, and the locks that a thread holds. The fork server has neither, and imports
    what workers need once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def worker_batches(
    dataset: TrainingDataset | PlainDataset,
    batches: Iterable[list[Key]],
    shape: tuple[int, ...],
    workers: int,
    slots_in_use: int,
    context: Any,
) -> Iterator[tuple[list[Key], np.ndarray, list[Objects]]]:
    """Yield each batch's keys, images and objects, in order.

    Args:
        dataset: of the samples.
        batches: the keys of each batch.
        shape: of a batch's images, uint8; a batch may have fewer.
        workers: processes; 0 for this one.
        slots_in_use: yielded batches that are kept as they are; older ones are overwritten.
        context: multiprocessing's, which starts the workers.

    Raises:
        InputError: raised in a worker, or a worker was killed.
    """
    if workers == 0:
        own = np.empty((slots_in_use, *shape), np.uint8)
        for keys, slot in zip(batches, itertools.cycle(own), strict=False):
            images = slot[: len(keys)]
            yield keys, images, [dataset.write_sample(*pair) for pair in zip(keys, images, strict=True)]
        return
    count = workers * PREFETCH_FACTOR + slots_in_use
    memory = _shared_memory(context, count * math.prod(shape))
    slots = np.frombuffer(memory, np.uint8).reshape(count, *shape)
    started: Workers = []
    end = functools.partial(_end, started)
    atexit.register(end)  # it runs before multiprocessing waits for its children, who wait for us
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, memory, slots.shape, dataset), daemon=True)
            start(process)
            theirs.close()
            started.append((ours, process))
        in_flight: list[list[Key]] = []
        numbered = enumerate(batches)
        for number in itertools.count():
            for later, next_keys in itertools.islice(numbered, workers * PREFETCH_FACTOR - len(in_flight)):
                _send(started, later % workers, (later % count, next_keys))
                in_flight.append(next_keys)
            if not in_flight:
                return
            objects = _receive(started, number % workers)
            keys = in_flight.pop(0)
            yield keys, slots[number % count, : len(keys)], objects
    finally:
        end()
        atexit.unregister(end)


def _shared_memory(context: Any, size: int) -> Any:
    if SHARED_MEMORY.exists() and (free := shutil.disk_usage(SHARED_MEMORY).free) < size:
        log.warning(
            "batches need %d MB of shared memory and %s has %d: they lie in a file on disk, which is slower; give it "
            "more (docker run --shm-size=2g), or lower run.workers",
            *(size // 10**6, SHARED_MEMORY, free // 10**6),
        )
    return context.RawArray("B", size)


def _send(workers: Workers, number: int, task: tuple[int, list[Key]]) -> None:
    try:
        workers[number][0].send(task)
    except OSError:
        raise _death(workers) from None


def _receive(workers: Workers, number: int) -> list[Objects]:
    connection, _ = workers[number]
    ready = wait([connection, *(process.sentinel for _, process in workers)])
    try:
        answer = connection.recv() if connection in ready else None
    except (EOFError, OSError):
        answer = None
    if answer is None:
        raise _death(workers)
    if isinstance(answer, InputError):
        raise answer
    if isinstance(answer, str):
        raise RuntimeError(f"a data-loading process failed: {answer.splitlines()[-1]}\n{answer}")
    return answer


def _death(workers: Workers) -> InputError:
    ended = wait([process.sentinel for _, process in workers])
    dead = next(process for _, process in workers if process.sentinel in ended)
    dead.join()
    if dead.exitcode in (-signal.SIGBUS, -signal.SIGSEGV):
        advice = "damage in the tree of an LMDB file does that: `m2det data verify` finds the damage"
    else:
        advice = "lower run.workers or train.batch_size if memory is short"
    return InputError(
        f"the data-loading process {dead.pid} was killed ({describe_exit(dead.exitcode)}); {advice}; "
        "the same command continues from the last checkpoint"
    )


def _end(workers: Workers) -> None:
    for connection, _ in workers:
        with contextlib.suppress(OSError):  # the worker is dead
            connection.send(None)
    deadline = time.monotonic() + SECONDS_TO_END
    for connection, process in workers:
        process.join(max(0.0, deadline - time.monotonic()))
        connection.close()
        process.kill()
        process.join()
    workers.clear()


def _work(connection: Connection, memory: Any, shape: tuple[int, ...], dataset: TrainingDataset | PlainDataset) -> None:
    end_with_starter()
    cv2.setNumThreads(0)  # one process per core already; OpenCV's and OpenMP's pools also hang after a fork
    torch.set_num_threads(1)
    slots = np.frombuffer(memory, np.uint8).reshape(shape)
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    # the pipe does not show the trainer's death: a forked process has inherited the pipe's other end, too
    while wait([connection, trainer.sentinel]) and connection.poll() and (task := connection.recv()):
        slot, keys = task
        answer: list[Objects] | InputError | str
        try:
            answer = [dataset.write_sample(*pair) for pair in zip(keys, slots[slot, : len(keys)], strict=True)]
        except InputError as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        connection.send(answer)
