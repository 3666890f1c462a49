"""Every record of a packed cache, read and decoded once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
from tqdm import tqdm

from m2det.data.image import check_jpeg_is_whole, check_size
from m2det.data.store import REPACK, PackedSplit, read_manifest
from m2det.errors import InputError
from m2det.process import describe_exit, die_with_parent


def bad_records(cache: Path, processes: int) -> Iterator[str]:
    """A sentence for each file and record that differs from what was packed, or is no image of its size; with progress.

    Raises InputError where there is no finished cache.
    """
    for name, entry in read_manifest(cache)["splits"].items():
        try:
            for file, crc32 in entry["crc32"].items():
                _check_file(cache / file, crc32)
            split = PackedSplit(cache, name)
        except InputError as error:  # nothing of the split can be relied on; the next may be whole
            yield str(error)
            continue
        yield from filter(None, tqdm(_verdicts(split, processes), f"verifying {name}", len(split), unit="image"))


def _check_file(path: Path, crc32: int) -> None:
    if not path.is_file() or zlib.crc32(path.read_bytes()) != crc32:
        raise InputError(f"{path} is missing or damaged; {REPACK}")


def _verdicts(split: PackedSplit, processes: int) -> Iterator[str]:
    """For each record, in no order, what is wrong with it, or nothing.

    Read in processes of their own, each a part of the split: damage in LMDB's tree may end one by a signal. It tells
    of each record before it goes on to the next, so the one that ended it is known.
    """
    edges = [len(split) * part // processes for part in range(processes + 1)]
    unread = dict(_start(split, range(*ends)) for ends in pairwise(edges) if ends[0] < ends[1])
    while unread:
        for connection in wait(list(unread)):
            assert isinstance(connection, Connection)
            process, indices = unread.pop(connection)
            rest = indices[1:]
            try:
                yield connection.recv()
                if rest:
                    unread[connection] = process, rest
            except EOFError:
                process.join()
                end = f"that ended a process ({describe_exit(process.exitcode)}), as damage in LMDB's tree does"
                yield f"{_name(split, indices[0])} cannot be read: {end}; {REPACK}"
                if rest:
                    unread |= [_start(split, rest)]


def _start(split: PackedSplit, indices: range) -> tuple[Connection, tuple[BaseProcess, range]]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_read, args=(split, indices, sender, os.getpid()), daemon=True)
    process.start()
    sender.close()
    return receiver, (process, indices)


def _read(split: PackedSplit, indices: range, sender: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    die_with_parent(parent)
    cv2.setNumThreads(0)
    for verdict in map(partial(_verdict, split), indices):
        sender.send(verdict)


def _verdict(split: PackedSplit, index: int) -> str:
    name = _name(split, index)
    try:
        data = split.record(index)
        check_jpeg_is_whole(data, name)
        check_size(data, name, *split.storage.size(*split.sizes[index].tolist()))
    except InputError as error:
        return str(error)
    return ""


def _name(split: PackedSplit, index: int) -> str:
    return f"{split.name}: image {split.image_ids[index]} ({split.file_names[index]})"
