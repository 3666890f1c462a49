"""Download large files over HTTP: resume an interrupted one, restart where the server's file has changed."""

from __future__ import annotations

import http.client
import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from m2det.errors import InputError, explain_disk_errors

log = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
SHORT_TIMEOUT = 10.0  # seconds, where an answer is all that is asked for
MAX_FAILURES = 5  # attempts in a row that gain no byte
PAUSE = 1.0  # seconds before the next attempt; doubled after each failure
BLOCK = 1 << 20  # bytes


def fetch_files(files: Sequence[tuple[str, Path]], advice: str, sizes: Mapping[Path, int] | None = None) -> None:
    """Fetch files at the same time, with progress bars; a later call resumes what an interrupted one left in PATH.part.

    Proxies are taken from the environment.

    Args:
        files: (URL, path) pairs.
        advice: What to do instead; the end of the error's sentence.
        sizes: Expected size in bytes by path, for files whose size is known.

    Raises:
        InputError: A file cannot be fetched or written, or has another size.
    """
    sizes = sizes or {}
    stop = Event()
    with ThreadPoolExecutor(len(files)) as pool:
        futures = [pool.submit(_fetch, url, path, sizes.get(path, 0), advice, stop) for url, path in files]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            stop.set()  # before the pool waits for its threads


def require_reachable(url: str, advice: str) -> None:
    """Ask the server for the file's headers alone.

    Args:
        url: of the file.
        advice: What to do instead; the end of the error's sentence.

    Raises:
        InputError: No server answers within `SHORT_TIMEOUT`, or the server has no such file.
    """
    try:
        urlopen(Request(url, headers={"User-Agent": "m2det"}, method="HEAD"), timeout=SHORT_TIMEOUT).close()
    except (OSError, http.client.HTTPException) as error:
        if not (isinstance(error, HTTPError) and error.code in (405, 501)):  # a server that knows no HEAD
            raise InputError(f"{url} cannot be fetched ({error or type(error).__name__}); {advice}") from error


def partial_paths(path: Path) -> tuple[Path, Path]:
    """Return the paths of the files that an interrupted fetch leaves: the first bytes, and the server's version."""
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


def _fetch(url: str, path: Path, size: int, advice: str, stop: Event) -> None:
    part, note = partial_paths(path)
    bar = tqdm(desc=path.name, unit="B", unit_scale=True, mininterval=1)
    with bar, explain_disk_errors(part), part.open("ab", buffering=0) as file:
        received, failures = file.tell(), 0
        bar.update(received)
        while True:
            try:
                _transfer(url, file, note, size, advice, stop, bar)
                break
            except (OSError, http.client.HTTPException) as error:  # HTTPError is an OSError
                final = isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 416, 429)
                failures = 0 if file.tell() > received else failures + 1
                if final or stop.is_set() or failures == MAX_FAILURES:
                    raise InputError(f"{url} cannot be fetched ({error or type(error).__name__}); {advice}") from error
                log.warning("%s: %s; trying again", path.name, error)
            received = max(received, file.tell())
            stop.wait(PAUSE * 2 ** max(0, failures - 1))
    part.rename(path)
    note.unlink(missing_ok=True)


def _transfer(url: str, file: FileIO, note: Path, size: int, advice: str, stop: Event, bar: tqdm) -> None:
    """Append the missing bytes, in one request. Raises OSError or HTTPException where the file stays incomplete."""
    local: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
    start = file.tell()
    if start and start == local.get("length"):
        return
    headers = {"User-Agent": "m2det", "Accept-Encoding": "identity"}
    if start and local.get("version"):  # without a version the rest may be another file's
        headers |= {"Range": f"bytes={start}-", "If-Range": local["version"]}
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the server's file is shorter than the part
            _empty(file, bar)
        raise
    with response:
        remote, offset = _parse_headers(response)
        if size and remote["length"] not in (0, size):
            reason = f"the server says it has {remote['length']} bytes, not {size}"
            raise InputError(f"{url} is not the file expected ({reason}); {advice}")
        if response.status != 206:
            _empty(file, bar)
            temporary = note.with_name(f"{note.name}.tmp")
            with explain_disk_errors(temporary):
                temporary.write_text(json.dumps(remote))
                temporary.replace(note)
        elif (remote, offset) != (local, start):
            _empty(file, bar)
            raise ConnectionError("the server's file has changed")
        bar.total = remote["length"]
        while block := response.read1(BLOCK):
            if stop.is_set():
                raise InputError("stopped")  # never shown: the error that set `stop` is
            with explain_disk_errors(note):
                file.write(block)
            bar.update(len(block))
    length = remote["length"] or size
    if length and file.tell() != length:
        raise ConnectionError(f"broke off after {file.tell()} of {length} bytes")


def _empty(file: FileIO, bar: tqdm) -> None:
    bar.update(-file.tell())
    file.seek(0)
    file.truncate()


def _parse_headers(response: http.client.HTTPResponse) -> tuple[dict[str, Any], int]:
    """Return the file's length (0 if unknown) and version, and the offset in bytes at which the response starts."""
    etag = response.headers.get("ETag") or ""
    # a weak ETag does not identify the bytes (RFC 9110, 13.1.5)
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
    offset, length = part.groups() if part else ("0", response.headers.get("Content-Length") or "")
    return {"length": int(length) if length.isdecimal() else 0, "version": version}, int(offset)
