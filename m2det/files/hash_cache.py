"""Hashes of files that are looked at again and again: a file is read only when its size or times have changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from m2det.files.regular_file import open_regular
from m2det.files.whole import write_whole

THREADS = 8  # that read; hashing leaves the interpreter to the others
CHUNK = 1 << 20  # bytes
RECENT = 2 * 10**9  # ns: a file changed this lately may change again within the same time stamp

Entry = list[int | str]  # inode, bytes, time of content, time of the inode (ns), sha256


def hash_files(paths: Iterable[Path], cache: Path) -> dict[Path, str]:
    """Return the files' sha256, and keep them with sizes and times in `cache`, a JSON file that may be deleted.

    Raises:
        InputError: a file cannot be read, or the cache cannot be written.
    """
    known = _read(cache)
    stats = {path: _stat(path) for path in paths}
    fresh = [path for path, stat in stats.items() if known.get(str(path), [])[:-1] != stat]
    now = time.time_ns()
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = dict(zip(fresh, pool.map(_sha256, fresh), strict=True))
    result = {path: hashes[path] if path in hashes else str(known[str(path)][-1]) for path in stats}
    old = {str(path): [*stat, result[path]] for path, stat in stats.items() if max(stat[2:]) < now - RECENT}
    if any(known.get(name) != entry for name, entry in old.items()):
        own = cache.with_name(f"{cache.name}.{os.getpid()}")  # experiments look at files at the same time
        write_whole(own, json.dumps({**_read(cache), **old}))
        os.replace(own, cache)
    return result


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


def _stat(path: Path) -> list[int]:
    status = os.stat(path)  # noqa: PTH116 - quicker
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read(cache: Path) -> Mapping[str, Entry]:
    """Return the kept entries; none if the file is absent or damaged, so that all files are read again."""
    try:
        content = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    good = isinstance(content, dict) and all(isinstance(e, list) and len(e) == 5 for e in content.values())
    return content if good else {}
