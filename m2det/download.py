"""Large files over HTTP: continued where they broke off, begun again where the server's file has changed."""

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

from m2det.errors import InputError, writing

log = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that gain no byte
PAUSE = 1.0  # seconds before the next one; twice as long each time
BLOCK = 1 << 20


def fetch_files(files: Sequence[tuple[str, Path]], advice: str, sizes: Mapping[Path, int] | None = None) -> None:
    """Fetch (URL, path) pairs, all at once, with progress; what is interrupted continues in the next call.

    What came of a file lies in PATH.part. Proxies are taken from the environment. sizes: bytes of files where known.
    Raises InputError, ending in the advice, for what cannot be fetched or written, or has another size.
    """
    sizes = sizes or {}
    stop = Event()
    with ThreadPoolExecutor(len(files)) as pool:
        running = [pool.submit(_fetch, url, path, sizes.get(path, 0), advice, stop) for url, path in files]
        try:
            for done in as_completed(running):
                done.result()
        finally:
            stop.set()  # before the pool waits for its threads


def parts_of(path: Path) -> tuple[Path, Path]:
    """What an interrupted fetch of the file leaves: its beginning, and a note on where that is from."""
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


def _fetch(url: str, path: Path, size: int, advice: str, stop: Event) -> None:
    part, note = parts_of(path)
    bar = tqdm(desc=path.name, unit="B", unit_scale=True, mininterval=1)
    with bar, writing(part), part.open("ab", buffering=0) as file:
        most, failures = file.tell(), 0
        bar.update(most)
        while True:
            try:
                _transfer(url, file, note, size, stop, bar)
                break
            except _OtherSizeError as error:
                raise InputError(f"{url} is not the file that is wanted ({error}); {advice}") from error
            except (OSError, http.client.HTTPException) as error:  # HTTPError is an OSError
                final = isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 416, 429)
                failures = 0 if file.tell() > most else failures + 1
                if final or stop.is_set() or failures == ATTEMPTS:
                    raise InputError(f"{url} cannot be fetched ({error or type(error).__name__}); {advice}") from error
                log.warning("%s: %s; trying again", path.name, error)
            most = max(most, file.tell())
            stop.wait(PAUSE * 2 ** max(0, failures - 1))
    part.rename(path)
    note.unlink(missing_ok=True)


class _OtherSizeError(Exception):
    pass


def _transfer(url: str, file: FileIO, note: Path, size: int, stop: Event, bar: tqdm) -> None:
    """One request: append what is missing. Raises OSError or HTTPException where that is not all of it."""
    known: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
    start = file.tell()
    if start and start == known.get("length"):
        return
    headers = {"User-Agent": "m2det", "Accept-Encoding": "identity"}
    if start and known.get("version"):  # without one nobody can tell whether the rest belongs to what is here
        headers |= {"Range": f"bytes={start}-", "If-Range": known["version"]}
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the server's file ends before our part of it
            _empty(file, bar)
        raise
    with response:
        told, begins = _told(response)
        if size and told["length"] not in (0, size):
            raise _OtherSizeError(f"the server says it has {told['length']} bytes, not {size}")
        if response.status != 206:
            _empty(file, bar)
            temporary = note.with_name(f"{note.name}.tmp")
            with writing(temporary):
                temporary.write_text(json.dumps(told))
                temporary.replace(note)
        elif (told, begins) != (known, start):
            _empty(file, bar)
            raise ConnectionError("the server's file has changed")
        bar.total = told["length"]
        while block := response.read1(BLOCK):
            if stop.is_set():
                raise InputError("stopped")  # nobody reads it: what stopped us is told
            with writing(note):
                file.write(block)
            bar.update(len(block))
    length = told["length"] or size
    if length and file.tell() != length:
        raise ConnectionError(f"broke off after {file.tell()} of {length} bytes")


def _empty(file: FileIO, bar: tqdm) -> None:
    bar.update(-file.tell())
    file.seek(0)
    file.truncate()


def _told(response: http.client.HTTPResponse) -> tuple[dict[str, Any], int]:
    """The file's length (0: not told) and version, and where the answer begins in it."""
    etag = response.headers.get("ETag") or ""
    # a weak ETag is no version (RFC 9110, 13.1.5)
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
    begins, length = part.groups() if part else ("0", response.headers.get("Content-Length") or "")
    return {"length": int(length) if length.isdecimal() else 0, "version": version}, int(begins)
