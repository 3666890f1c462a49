"""Large files over HTTP: continued where they broke off, begun again where the server's file has changed."""

from __future__ import annotations

import fcntl
import http.client
import json
import logging
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from tqdm import tqdm

from m2det.errors import InputError, writing

log = logging.getLogger(__name__)
T = TypeVar("T")

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that gain no byte
PAUSE = 1.0  # seconds before the next one; twice as long each time
BLOCK = 1 << 20


class _Stopped(Exception):
    """Another file's download failed, or the process is to end."""


class Download:
    """One file on its way: what came lies in PATH.part, of which version it is in PATH.part.json."""

    def __init__(self, url: str, path: Path, advice: str) -> None:
        self.url, self.path, self.advice = url, path, advice
        self.part, self.note = (path.with_name(path.name + end) for end in (".part", ".part.json"))

    @property
    def there(self) -> int:
        """Bytes that have come."""
        return self.part.stat().st_size if self.part.exists() else 0

    def length(self, stop: Event) -> int:
        """Bytes of the whole file, as the server says; 0 where it does not say."""
        with self._insist(lambda: self._open({}, "HEAD"), stop) as response:
            return int(response.headers.get("Content-Length") or 0)

    def run(self, stop: Event, bar: tqdm) -> None:
        """Fetch what is missing, then rename. Raises InputError, _Stopped."""
        with writing(self.part), self.part.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.part} is being written by another process; let it finish") from None
            bar.update(self.there)
            self._insist(lambda: self._transfer(file, stop, bar), stop)
        self.part.rename(self.path)
        self.note.unlink(missing_ok=True)

    def _transfer(self, file: FileIO, stop: Event, bar: tqdm) -> None:
        known: dict[str, Any] = json.loads(self.note.read_text()) if self.note.exists() else {}
        start = self.there
        if start and start == known.get("length"):
            return
        # without a version nobody can tell whether the rest belongs to what is here
        resume = {"Range": f"bytes={start}-", "If-Range": known["version"]} if start and known.get("version") else {}
        try:
            response = self._open(resume, "GET")
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            self._restart(file, bar)
            raise ConnectionError("the server's file is shorter than what came of it") from error
        with response:
            told = _told(response)
            if response.status != 206:
                self._restart(file, bar)
                with writing(self.note):
                    self.note.write_text(json.dumps(told))
            elif told != known | {"start": start}:
                self._restart(file, bar)
                raise ConnectionError("the server's file has changed")
            while block := response.read1(BLOCK):
                if stop.is_set():
                    raise _Stopped
                with writing(self.part):
                    file.write(block)
                bar.update(len(block))
        if told["length"] and self.there != told["length"]:
            raise ConnectionError(f"broke off after {self.there} of {told['length']} bytes")

    def _restart(self, file: FileIO, bar: tqdm) -> None:
        bar.update(-self.there)
        file.truncate(0)
        self.note.unlink(missing_ok=True)

    def _open(self, headers: dict[str, str], method: str) -> http.client.HTTPResponse:
        headers = {"User-Agent": "m2det", "Accept-Encoding": "identity", **headers}
        request = urllib.request.Request(self.url, headers=headers, method=method)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
        return response

    def _insist(self, attempt: Callable[[], T], stop: Event) -> T:
        most, failures = self.there, 0
        while True:
            try:
                return attempt()
            except urllib.error.HTTPError as error:
                reason, final = str(error), error.code < 500 and error.code not in (408, 429)
            except (OSError, http.client.HTTPException) as error:
                reason, final = str(error) or type(error).__name__, False
            failures = 0 if self.there > most else failures + 1
            most = max(most, self.there)
            if final or failures == ATTEMPTS:
                raise InputError(f"{self.url} cannot be fetched ({reason}); {self.advice}")
            pause = PAUSE * 2 ** max(0, failures - 1)
            log.warning("%s: %s; again in %.0f s", self.path.name, reason, pause)
            if stop.wait(pause):
                raise _Stopped


def _told(response: http.client.HTTPResponse) -> dict[str, Any]:
    """The file's length and version, and where a part of it starts. A weak ETag is no version (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag") or ""
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
    if response.status == 206:
        return {"length": int(part[2]), "version": version, "start": int(part[1])} if part else {}
    return {"length": int(response.headers.get("Content-Length") or 0), "version": version}


def fetch_files(files: Sequence[tuple[str, Path]], advice: str) -> None:
    """Fetch (URL, path) pairs into one folder, all at once, with progress; what is interrupted continues later.

    It takes room for the files twice: once as they are, once unpacked. Proxies are taken from the environment.
    Raises InputError, ending in the advice, for what cannot be fetched; and where there is too little room.
    """
    downloads = [Download(url, path, advice) for url, path in files]
    stop = Event()
    lengths = [download.length(stop) for download in downloads]
    need = sum(2 * length - download.there for length, download in zip(lengths, downloads, strict=True))
    check_room(files[0][1].parent, need, "fetching and unpacking")
    bar = tqdm(total=sum(lengths), desc="fetching", unit="B", unit_scale=True, mininterval=1)
    with bar, ThreadPoolExecutor(len(downloads)) as pool:
        running = [pool.submit(download.run, stop, bar) for download in downloads]
        try:
            for done in as_completed(running):
                done.result()
        finally:
            stop.set()  # before the pool waits for its threads


def check_room(folder: Path, need: int, what: str) -> None:
    """Raises InputError where the folder's disk has less than `need` bytes."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise InputError(f"{folder} has {free / 1e9:.1f} GB free, but {what} takes {need / 1e9:.1f} GB; make room")
