"""A request to stop, honoured by the loop at the end of a step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from m2det.distributed.grace import answered


class StopRequest:
    """While it is entered, SIGTERM, SIGINT and SIGHUP only set `requested` to their number.

    A second SIGINT acts as before. A second one of the others does not: launchers and the kernel may each send one.
    One that is ignored stays so.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in answered():
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])
