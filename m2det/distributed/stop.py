"""A request to stop, on which the processes of a training agree at the end of a step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import torch

from m2det.distributed.group import ALONE, Group
from m2det.distributed.shutdown import handled_signals

MAX_STEPS, MAX_SECONDS = 10, 5.0  # from one all-reduce of the request to the next, which makes the processes wait
FAILURE = 255  # in the place of a signal's number, and above all of them


class StopRequest:
    """Inside its `with` block, SIGTERM, SIGINT and SIGHUP only set `requested` to their number, and so does `fail`.

    A second SIGINT acts as outside the block. A second SIGTERM or SIGHUP does not: launchers and the kernel may each
    send one. Signals that this process ignores stay ignored.
    """

    def __init__(self, group: Group = ALONE, device: torch.device | None = None) -> None:
        """Choose the processes that stop together, and the device whose backend connects them."""
        self.requested = 0
        self._group, self._device = group, device or torch.device("cpu")
        self._next_step = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def should_stop(self, step: int, step_seconds: float, epoch_ended: bool) -> int:
        """Return the number of the signal to stop by, or FAILURE, the same in all processes, or 0 to go on.

        Several processes ask each other every few steps only, and at the end of an epoch.

        Args:
            step: steps done.
            step_seconds: mean time of a step in this process.
            epoch_ended: whether this was an epoch's last step.
        """
        if self._group.size > 1 and step < self._next_step and not epoch_ended:
            return 0
        signal_number, slowest = self._group.all_reduce_max([self.requested, step_seconds], self._device)
        steps = MAX_STEPS if slowest * MAX_STEPS < MAX_SECONDS else int(MAX_SECONDS / slowest)
        self._next_step = step + max(steps, 1)
        return int(signal_number)

    def fail(self) -> None:
        """Request that all processes stop because this one has failed in another thread, whose error it raises then."""
        self.requested = FAILURE

    def __enter__(self) -> StopRequest:
        for number in handled_signals():
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = number
        if number == signal.SIGINT:
            signal.signal(number, self._handlers[signal.SIGINT])
