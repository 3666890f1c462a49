"""How the nodes of a run end together: each tells the others that it lives, and in the end why it has ended."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import IntEnum
from multiprocessing.connection import wait
from pathlib import Path
from signal import Signals
from threading import Condition, Event, Thread
from typing import Any

from m2det.distributed.peer import BEAT_SECONDS, OTHER_LANGUAGE, SILENT_SECONDS, NodeLostError, Peer
from m2det.distributed.shutdown import LOG_NAME, OTHER_NODE
from m2det.errors import InputError

# of a process whose collective failed: another process, perhaps of another node, has ended before
LOST_CONNECTION = "lost its connection to another process"


class Weight(IntEnum):
    """How likely an end is the cause of the others."""

    SUCCESS = 0
    CONSEQUENCE = 1  # the processes ended because others did
    FAILED = 2
    STOPPED = 3  # by a signal to the node's own command, or lost


@dataclass(frozen=True)
class End:
    """The end of a node.

    Attributes:
        node: its name.
        sentence: why, the node's name in it.
        weight: of the cause.
    """

    node: str
    sentence: str
    weight: int


class Watch:
    """A thread that exchanges signs of life with the other nodes.

    Attributes:
        cause: the first end of another node that ends this one, too.
    """

    def __init__(self, peers: Sequence[Peer], folder: Path) -> None:
        """Start to watch.

        Args:
            peers: the other nodes; for all but the first node this is the first one alone.
            folder: where OTHER_NODE appears to end this node's torchrun.
        """
        self.cause: End | None = None
        self._peers, self._folder = list(peers), folder
        self._left = list(peers)  # those that have not ended
        for peer in peers:  # they have said nothing while others came and files were sent
            peer.heard = time.monotonic()
        self._changed, self._closing = Condition(), Event()
        self._thread = Thread(target=self._run, name="watch of the nodes", daemon=True)
        self._thread.start()

    def finish(self, own: End, seconds: float) -> End:
        """Tell the others how this node has ended, and return the end that is the cause.

        Args:
            own: this node's end.
            seconds: how long to wait for the others' where this one's is no cause.
        """
        self._tell(own, self._peers)
        if own.weight == Weight.CONSEQUENCE:
            with self._changed:
                self._changed.wait_for(lambda: self.cause or not self._left, seconds)
        self._closing.set()
        self._thread.join()
        for peer in self._peers:
            peer.close()
        cause = self.cause
        return cause if cause and own.weight == Weight.CONSEQUENCE else own

    def _run(self) -> None:
        next_beat = time.monotonic()
        while not self._closing.is_set():
            ready = wait([peer.connection for peer in self._left], max(0.0, next_beat - time.monotonic()))
            for peer in [peer for peer in self._left if peer.connection in ready]:
                self._receive(peer)
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_SECONDS
                for peer in list(self._left):
                    self._beat(peer)

    def _beat(self, peer: Peer) -> None:
        try:
            peer.send("beat")
            if time.monotonic() - peer.heard > SILENT_SECONDS:
                raise NodeLostError(f"has not answered for {SILENT_SECONDS} s")
        except NodeLostError as lost:
            self._lose(peer, lost)

    def _receive(self, peer: Peer) -> None:
        try:
            message = peer.receive()
            if message["kind"] == "end":
                self._take(peer, End(**message["end"]))
        except NodeLostError as lost:
            self._lose(peer, lost)
        except (KeyError, TypeError):
            self._lose(peer, NodeLostError(OTHER_LANGUAGE))

    def _lose(self, peer: Peer, lost: NodeLostError) -> None:
        if peer in self._left:
            sentence = f"{peer.name} {lost}, or the network to it is down; the same command goes on from what is saved"
            self._take(peer, End(peer.name, sentence, Weight.STOPPED))

    def _take(self, peer: Peer, end: End) -> None:
        with self._changed:
            if end.node == peer.name and peer in self._left:  # the first node passes on what others tell it
                self._left.remove(peer)
            if self.cause is None and end.weight > Weight.CONSEQUENCE:
                self.cause = end
                with suppress(OSError):  # a full disk: an empty file is enough for torchrun, this thread has to go on
                    (self._folder / OTHER_NODE).touch()
                    with (self._folder / LOG_NAME).open("a", encoding="utf-8") as log:
                        log.write(f"{end.sentence}\n")
            self._changed.notify_all()
        if end.node == peer.name:
            self._tell(end, [other for other in self._peers if other is not peer])

    def _tell(self, end: End, peers: Sequence[Peer]) -> None:
        for peer in peers:
            with suppress(NodeLostError):  # one that has ended needs to know no more
                peer.send("end", end=asdict(end))


@contextmanager
def ends_with_others(watch: Watch, name: str, grace: float) -> Iterator[None]:
    """Wrap torchrun of this node: tell the others how it ends, and learn from them why.

    Args:
        watch: of the other nodes.
        name: of this node.
        grace: seconds that other nodes have to end after this one.

    Raises:
        InputError: this node failed, or another node failed, was stopped or was lost: names it.
        SystemExit: a signal stopped this node.
    """
    try:
        yield
    except InputError as error:
        caused = watch.cause is not None or LOST_CONNECTION in str(error)
        end = watch.finish(_failed(name, error, caused), grace)
        raise InputError(end.sentence) from error
    except (SystemExit, KeyboardInterrupt) as stopped:
        by_ranks = isinstance(stopped.__cause__, subprocess.CalledProcessError)
        weight = Weight.CONSEQUENCE if by_ranks or watch.cause else Weight.STOPPED
        end = watch.finish(End(name, f"{name} was stopped{_by(stopped)}; the same command goes on", weight), grace)
        if end.node == name:
            raise
        raise InputError(end.sentence) from stopped
    except Exception as error:
        watch.finish(End(name, f"{name}: {type(error).__name__}: {error}", Weight.FAILED), grace)
        raise
    watch.finish(End(name, "", Weight.SUCCESS), grace)


def _failed(name: str, error: InputError, caused: bool) -> End:
    return End(name, f"{name}: {error}", Weight.CONSEQUENCE if caused else Weight.FAILED)


def _by(stopped: BaseException) -> str:
    code: Any = stopped.code if isinstance(stopped, SystemExit) else 130
    known = isinstance(code, int) and code - 128 in {int(number) for number in Signals}
    return f" by {Signals(code - 128).name}" if known else ""
