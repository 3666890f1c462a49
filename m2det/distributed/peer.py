"""Another node of a run: messages and files over one TCP connection."""

from __future__ import annotations

import json
import socket
import struct
import time
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

from m2det.config import rendezvous_address
from m2det.errors import InputError

BEAT_SECONDS = 1.0  # between the signs of life that nodes give each other
SILENT_SECONDS = 20  # without one, after which a node counts as lost
MAX_MESSAGE = 1 << 24  # bytes
OTHER_LANGUAGE = "speaks another language than a node of a run"


class NodeLostError(Exception):
    """Another node does not answer any more; the message is a phrase, such as "has ended"."""


class Peer:
    """Another node, at the other end of a connection.

    Attributes:
        name: such as "node 1 (host)".
        address: of this machine, on the way to the other.
        connection: for multiprocessing.connection.wait.
        heard: time.monotonic() of the last message.
    """

    def __init__(self, connected: socket.socket, name: str) -> None:
        """Take over the connected socket."""
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # of a message that stops in its middle
            connected.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SILENT_SECONDS, 0))
        self.name, self.address = name, str(connected.getsockname()[0])
        self.connection = Connection(connected.detach())
        self.heard = time.monotonic()
        self._lock = Lock()

    def send(self, kind: str, **content: Any) -> None:
        """Send a message. Raises NodeLostError."""
        self._send(json.dumps({"kind": kind, **content}).encode())

    def send_file(self, path: Path) -> None:
        """Send a file's content. Raises NodeLostError."""
        self._send(path.read_bytes())

    def receive(self, within: float = SILENT_SECONDS) -> dict[str, Any]:
        """Return the next message. Raises NodeLostError, also where none comes within so many seconds."""
        try:
            message = json.loads(self._receive(within, MAX_MESSAGE))
        except ValueError:
            message = None
        if not isinstance(message, dict) or "kind" not in message:
            raise NodeLostError(OTHER_LANGUAGE)
        return message

    def receive_file(self, path: Path, within: float) -> None:
        """Write the file that comes next. Raises NodeLostError as `receive` does."""
        path.write_bytes(self._receive(within, None))

    def close(self) -> None:
        """Close the connection; what has been sent still arrives."""
        self.connection.close()

    def _send(self, content: bytes) -> None:
        try:
            with self._lock:
                self.connection.send_bytes(content)
        except OSError as error:
            raise NodeLostError(_reason(error)) from error

    def _receive(self, within: float, most: int | None) -> bytes:
        try:
            if not self.connection.poll(within):
                raise NodeLostError(f"has not answered for {within:g} s")
            content = self.connection.recv_bytes(most)
        except (EOFError, OSError) as error:
            raise NodeLostError(_reason(error)) from error
        self.heard = time.monotonic()
        return content


def _reason(error: Exception) -> str:
    if isinstance(error, BlockingIOError):
        return f"has not answered for {SILENT_SECONDS} s"
    if isinstance(error, EOFError | ConnectionError):
        return "has ended"
    return f"cannot be reached ({error})"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port. Raises InputError for a text that is not HOST:PORT."""
    try:
        host, _, port = rendezvous_address(text or " ").rpartition(":")
    except ValueError as error:
        raise InputError(f"the first node's address {error}") from error
    return host, int(port)
