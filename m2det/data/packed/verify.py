"""Every record of a packed cache, read and decoded once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
from tqdm import tqdm

from m2det.data.image_checks import check_size
from m2det.data.packed.reader import REPACK, PackedSplit, read_checked, read_manifest
from m2det.distributed.lifetime import describe_exit, end_with_starter, start
from m2det.errors import InputError
from m2det.text import printable


def bad_records(cache: Path, processes: int) -> Iterator[str]:
    """Yield a sentence for each file and record that differs from what was packed, or is no image of its size.

    A cache that was packed with `verify: header` may hold images of another size. Shows a progress bar.

    Args:
        cache: the folder.
        processes: that read and decode.

    Raises:
        InputError: the cache is unfinished.
    """
    for name, entry in read_manifest(cache)["splits"].items():
        try:
            split = PackedSplit(cache, name)
            read_checked(split.ground_truth, entry["crc32"])
        except InputError as error:  # of this split alone; the next may be whole
            yield str(error)
            continue
        yield from filter(
            None, tqdm(_verdicts(split, processes), f"verifying {printable(name)}", len(split), unit="image")
        )


def _verdicts(split: PackedSplit, processes: int) -> Iterator[str]:
    """Yield for each record, in no order, what is wrong with it, or nothing.

    Processes read one range of the split each, since damage in LMDB's tree may end a process by a signal. Each sends a
    verdict before it reads the next record, so the record that ended it is known.
    """
    edges = [len(split) * k // processes for k in range(processes + 1)]
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
    process = multiprocessing.Process(target=_read, args=(split, indices, sender), daemon=True)
    start(process)
    sender.close()
    return receiver, (process, indices)


def _read(split: PackedSplit, indices: range, sender: Connection) -> None:
    end_with_starter()
    cv2.setNumThreads(0)
    for verdict in map(partial(_verdict, split), indices):
        sender.send(verdict)


def _verdict(split: PackedSplit, index: int) -> str:
    name = _name(split, index)
    advice = ""
    try:
        data = split.record(index)
        advice = ", and run `dvc repro -f data`"  # the record is as it was packed: packing again would change nothing
        check_size(data, name, *split.encoding.size(*split.sizes[index].tolist()))
    except InputError as error:
        return f"{error}{advice}"
    return ""


def _name(split: PackedSplit, index: int) -> str:
    return printable(f"{split.name}: image {split.image_ids[index]} ({split.file_names[index]})")
