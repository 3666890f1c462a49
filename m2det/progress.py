"""How far a long job has come: lines in the log at least once a minute, and a small file for programs that look on.

If the environment variable M2DET_PROGRESS names a file, it always holds one whole JSON object, some seconds old, like
{"stage": "train", "doing": "training", "done": 300, "total": 2232, "unit": "steps", "img_s": 149.0, "eta_s": 217,
"loss": 3.35, "AP": 0.52}. A training has loss (the sum of both losses in its last line that has them) and AP (of its
last evaluation, which the file does not follow) once they are known.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

VARIABLE = "M2DET_PROGRESS"
FIRST_LINE, NEXT_LINE = 30.0, 60.0  # seconds without a line, at most
FILE_SECONDS = 5.0  # from one replacement of the file to the next, at least
ETA_LINES = 10  # lines whose rate the remaining time follows: a machine may become busy, or quiet again

Item = TypeVar("Item")


def print_line(text: str) -> None:
    """Print a line at once, through a pipe, too."""
    print(text, flush=True)


def percent(done: int, total: int) -> str:
    """Return the share that is done, as a whole percentage that is 100% only at the end."""
    return f"{100 * done // total}%"


def describe_rate(images_per_second: float) -> str:
    """Return a rate with as many digits as are worth reading."""
    return f"{images_per_second:.{0 if images_per_second >= 10 else 2}f} img/s"


def minutes(seconds: float) -> str:
    """Return a duration as minutes:seconds."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


class Pace:
    """The speed and the remaining time of a job, and when a line on them is due; pauses count as no time.

    Attributes:
        seconds: since the last line.
    """

    def __init__(self, done: int, total: int, images: int = 1) -> None:
        """Start the clock.

        Args:
            done: units done before.
            total: units of the whole job.
            images: of one unit.
        """
        self.seconds = 0.0
        self._total, self._images = total, images
        self._last_done, self._longest_lap, self._wait = done, 0.0, FIRST_LINE
        self._recent: deque[tuple[int, float]] = deque(maxlen=ETA_LINES)  # units and seconds of lines
        self._clock = time.perf_counter()

    def lap(self) -> float:
        """Count the seconds since the last call, and return them."""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self.seconds += seconds
        self._longest_lap = max(self._longest_lap, seconds)
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out."""
        self.lap()
        yield
        self._clock = time.perf_counter()

    @property
    def is_line_due(self) -> bool:
        """Whether the next lap might end too late for a line."""
        return self.seconds + self._longest_lap > self._wait

    def speed(self, done: int) -> tuple[float, float]:
        """Return images per second and the seconds that remain, both by the last lines and what came after them."""
        units, seconds = map(sum, zip(*self._recent, (done - self._last_done, self.seconds), strict=True))
        return units * self._images / seconds, (self._total - done) * seconds / units

    def end_line(self, done: int) -> tuple[float, float]:
        """Return images per second since the last line and, by the last lines, the seconds that remain; begin another.

        At least one unit and one lap must have passed.
        """
        per_second = (done - self._last_done) * self._images / self.seconds
        self._recent.append((done - self._last_done, self.seconds))
        self._last_done, self.seconds, self._longest_lap, self._wait = done, 0.0, 0.0, NEXT_LINE
        units, seconds = map(sum, zip(*self._recent, strict=True))
        return per_second, (self._total - done) * seconds / units


class ProgressFile:
    """The file that M2DET_PROGRESS names; without a name, nothing is written."""

    def __init__(self, stage: str, unit: str, total: int) -> None:
        """Choose what is the same in all contents; `stage` is "" for a job that must not write."""
        self._path = os.environ.get(VARIABLE, "") if stage else ""
        self._same = {"stage": stage, "unit": unit, "total": total}
        self._total = total
        self._next = 0.0
        self._failed = False

    def is_due(self, done: int) -> bool:
        """Return whether the content is old enough to be replaced, or all is done."""
        return bool(self._path) and (time.perf_counter() >= self._next or done == self._total)

    def write(self, doing: str, done: int, speed: tuple[float, float], **values: float) -> None:
        """Replace the content; a reader sees the old one or the new one.

        A disk that takes no file must not end a training for the sake of this one: a warning says it, once.
        """
        rate, remaining = speed
        content = {"doing": doing, "done": done, "img_s": round(rate, 2), "eta_s": round(remaining)} | values
        temporary = Path(f"{self._path}.tmp")
        self._next = time.perf_counter() + FILE_SECONDS
        try:
            temporary.write_text(json.dumps(self._same | content, allow_nan=False) + "\n")
            os.replace(temporary, self._path)  # without fsync: after a crash of the machine nobody needs it
        except OSError as error:
            if not self._failed:
                log.warning("warning: %s cannot be written (%s): whoever looks on sees no progress", self._path, error)
            self._failed = True


class Progress:
    """The null object: a job that reports nothing, because nobody listens or another process reports."""

    def advance(self, images: int = 1) -> None:
        """Count images that are done."""

    def track(self, items: Iterable[Item], images: int = 1) -> Iterator[Item]:
        """Yield the items, each as a number of images, done when the next one is asked for."""
        for item in items:
            yield item
            self.advance(images)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        pass


NO_PROGRESS = Progress()


class ImageProgress(Progress):
    """A job that handles one image after the other: a bar on a terminal, lines elsewhere, and the file."""

    def __init__(
        self, title: str, total: int, done: int = 0, stage: str = "", write: Callable[[str], None] = print_line
    ) -> None:
        """Start the clock.

        Args:
            title: what is done, such as "packing train".
            total: images.
            done: images done before.
            stage: whose process this is; "" for a part of another job, which has the bar and the file.
            write: takes the lines.
        """
        self._title, self._total, self._done, self._write = title, total, done, write
        self._pace, self._file = Pace(done, total), ProgressFile(stage, "images", total)
        terminal = bool(stage) and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, desc=title, unit="image", disable=not terminal)

    def advance(self, images: int = 1) -> None:
        images = min(images, self._total - self._done)  # one process counts for all, whose last shares are not equal
        self._done += images
        self._pace.lap()
        self._bar.update(images)
        if self._file.is_due(self._done):
            self._file.write(self._title, self._done, self._pace.speed(self._done))
        if self._pace.is_line_due and self._bar.disable:
            rate, remaining = self._pace.end_line(self._done)
            self._write(
                f"{self._title}: {self._done}/{self._total} images {percent(self._done, self._total)} "
                f"{describe_rate(rate)} eta {minutes(remaining)}"
            )

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.close()
