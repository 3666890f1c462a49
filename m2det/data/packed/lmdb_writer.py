"""Writing a packed split's images into LMDB: threads prepare them, one commits them in order.

An interrupted call is continued from its last commit; the bytes depend neither on that nor on the threads.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from m2det.data.ordered_map import ordered_map
from m2det.data.packed.reader import key_of
from m2det.errors import InputError
from m2det.progress import ImageProgress

RECORDS_PER_COMMIT = 1000  # fixed, like the map size: the same input must give the same bytes
BYTES_PER_COMMIT = 16 << 20  # or sooner: LMDB holds them in memory until then, copied faster while caches hold them too
RECORDS_PER_CHUNK, BYTES_PER_CHUNK = 64, 1 << 20  # what a thread prepares at a time, or a single record
MAX_BYTES_IN_FLIGHT = 64 << 20  # of chunks that are prepared, or are to be, and not yet written


def write_images(path: Path, max_sizes: list[int], encode: Callable[[int], bytes], threads: int) -> NDArray[np.uint32]:
    """Write the records that the file does not hold yet, and report progress.

    Args:
        path: of the LMDB file; PATH.sums beside it holds CRC32 and length of each committed record.
        max_sizes: an upper bound of each record's bytes.
        encode: gives the record of an index; called in threads.
        threads: number of them.

    Returns:
        CRC32 and length of each record, [N,2].

    Raises:
        InputError: raised by encode, or the file is damaged or cannot be written.
    """
    # values live in pages of their own of 4 KiB; a tenth and 64 MiB for the tree
    map_size = sum(-(-size // 4096) * 4096 + 4096 for size in max_sizes) * 11 // 10 + (64 << 20)
    try:
        return _write_missing(path, map_size, max_sizes, encode, threads)
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError) as error:
        raise InputError(f"{path} is damaged ({error}); delete {path.parent} and give the command again") from error
    except lmdb.Error as error:
        raise InputError(f"{path} cannot be written ({error}); make room on its disk") from error


def _write_missing(
    path: Path, map_size: int, max_sizes: list[int], encode: Callable[[int], bytes], threads: int
) -> NDArray[np.uint32]:
    def prepare(chunk: range) -> list[tuple[bytes, int]]:
        return [(data, zlib.crc32(data)) for data in map(encode, chunk)]

    def cost(chunk: range) -> int:
        return sum(max_sizes[chunk.start : chunk.stop])

    sums_path = path.with_suffix(".sums")
    if not sums_path.exists():
        path.unlink(missing_ok=True)  # not even its first pages are sure to be whole
    with _environment(path, map_size) as env:
        done = env.stat()["entries"]
    title = f"packing {path.stem}"
    if done:
        print(f"{title}: continues after {done} of {len(max_sizes)} images", flush=True)
    with (
        sums_path.open("ab") as sums,
        ImageProgress(title, len(max_sizes), done, stage="pack") as progress,
        closing(ordered_map(_chunks(max_sizes, done), prepare, threads, cost, MAX_BYTES_IN_FLIGHT)) as chunks,
    ):
        sums.truncate(done * 8)  # those of a commit that was not reached
        records = progress.track(record for chunk in chunks for record in chunk)
        while done < len(max_sizes):
            # opened anew for each transaction: pages that LMDB recycles in memory keep, behind their contents, bytes
            # of older pages; so a commit depends on the file alone, and an interrupted pack ends with the same bytes
            with _environment(path, map_size) as env:
                done += _write_transaction(env, done, records, sums)
    return np.fromfile(sums_path, np.uint32).reshape(-1, 2)


def _environment(path: Path, map_size: int) -> Any:
    # synced at each commit, or a power cut could take more than the last one
    return closing(lmdb.open(str(path), map_size=map_size, subdir=False, lock=False, writemap=False))


def _write_transaction(env: Any, first: int, records: Iterator[tuple[bytes, int]], sums: IO[bytes]) -> int:
    """Write records up to a commit, whose place follows from them alone; return how many."""
    committed: list[tuple[int, int]] = []
    size = 0
    with env.begin(write=True) as transaction:
        for data, crc in records:
            transaction.put(key_of(first + len(committed)), data, append=True)
            committed.append((crc, len(data)))
            size += len(data)
            if len(committed) == RECORDS_PER_COMMIT or size >= BYTES_PER_COMMIT:
                break
        sums.write(np.array(committed, np.uint32).tobytes())  # first: each committed record has a sum
        sums.flush()
        os.fsync(sums.fileno())
    return len(committed)


def _chunks(max_sizes: Sequence[int], first: int) -> Iterator[range]:
    """Yield the indices from `first` on, in runs of no more bytes than a thread is to hold."""
    size = 0
    for end in range(first + 1, len(max_sizes) + 1):
        size += max_sizes[end - 1]
        if size >= BYTES_PER_CHUNK or end - first == RECORDS_PER_CHUNK or end == len(max_sizes):
            yield range(first, end)
            first, size = end, 0
