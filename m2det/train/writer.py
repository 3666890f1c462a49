"""Who writes checkpoints: the training itself, or on an accelerator a thread, while the next steps run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import TIMEOUT_MAX, Thread
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Writer:
    """Write at once, in the calling thread.

    Attributes:
        patience: seconds to wait for an earlier write before the next one begins.
    """

    patience = TIMEOUT_MAX

    def write(self, write: Callable[[Any], None], content: Any) -> None:
        """Call write(content).

        Args:
            write: writes a file.
            content: tensors and plain types in dicts, lists and tuples.

        Raises:
            Exception: of this write, or of an earlier one.
        """
        write(content)

    def finish(self) -> None:
        """Wait until everything is written. Raises the exception of an earlier write."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Wait until nothing is being written, whatever ended the training."""


class BackgroundWriter(Writer):
    """Copy to the host, then write in a thread, one write at a time.

    The copy is complete when `write` returns, so the training may change the tensors then.
    """

    def __init__(self, on_error: Callable[[], None]) -> None:
        """Take what the thread calls after a failure, which the next `write` or `finish` raises."""
        self._on_error = on_error
        self._threads: list[Thread] = []
        self._errors: list[Exception] = []

    def write(self, write: Callable[[Any], None], content: Any) -> None:
        """Copy the content and return; an earlier write that outlasts `patience` goes on beside this one."""
        self._join(self.patience)
        self._raise()
        thread = Thread(target=self._run, args=(write, copy_to_host(content)), name="checkpoint writer")
        thread.start()
        self._threads.append(thread)

    def finish(self) -> None:
        """Wait until everything is written. Raises the exception of an earlier write."""
        self._join(TIMEOUT_MAX)
        self._raise()

    def _run(self, write: Callable[[Any], None], content: Any) -> None:
        try:
            write(content)
        except Exception as error:
            self._errors.append(error)
            self._on_error()

    def _join(self, seconds: float) -> None:
        for thread in self._threads:
            thread.join(seconds)
        self._threads = [thread for thread in self._threads if thread.is_alive()]

    def _raise(self) -> None:
        if self._errors:
            raise self._errors.pop()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Wait until nothing is being written; warn of a failure, since another one has ended the training."""
        self._join(TIMEOUT_MAX)
        for error in self._errors:
            log.warning("warning: %s", error)


def make_writer(device: torch.device, on_error: Callable[[], None]) -> Writer:
    """Return what suits the device: on a CPU a thread would take from the training the time that it saves."""
    return Writer() if device.type == "cpu" else BackgroundWriter(on_error)


def copy_to_host(content: Any) -> Any:
    """Return dicts, lists, tuples and tensors copied, the tensors to the CPU; numbers and strings cannot change."""
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: copy_to_host(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(map(copy_to_host, content))
    return content
