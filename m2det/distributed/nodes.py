"""The nodes of a run, seen from the first one: it waits for the others, and gives each its place and its work."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from itertools import product
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
import torch

from m2det.config import Params
from m2det.device import choose_device, network_environment
from m2det.distributed.peer import BEAT_SECONDS, NodeLostError, Peer, parse_address
from m2det.errors import InputError
from m2det.files.hashing import file_sha256

log = logging.getLogger(__name__)

PROTOCOL = 1  # of the messages between nodes
REMIND_SECONDS = 60  # from one line on nodes that are missing to the next
PACKAGES = ("torch", "torch-npu", "numpy", "opencv-python-headless", "simplejpeg", "lmdb", "pyarrow")
CACHE, FOLDER = "cache", "folder"  # what an argument is on another node


@dataclass(frozen=True)
class Work:
    """What the processes of all nodes run: `python -m module ARGUMENTS`.

    Attributes:
        module: to run.
        arguments: of the module.
        folder: that the processes of a node share, for their log and the sentence of one that fails.
        inputs: the files among the arguments that every process reads; other nodes are sent them.
        cache: the packed cache among the arguments; each node has its own.
        cache_digest: of the cache's content, which must be the same on all nodes.
    """

    module: str
    arguments: tuple[str | Path, ...]
    folder: Path
    inputs: tuple[Path, ...] = ()
    cache: Path | None = None
    cache_digest: str = ""

    def describe_arguments(self) -> list[str]:
        """Return for each argument what it is elsewhere: CACHE, FOLDER, an input's number, or an output's name."""
        return [self._describe(argument) for argument in self.arguments]

    def _describe(self, argument: str | Path) -> str:
        if argument == self.cache:
            return CACHE
        if argument == self.folder:
            return FOLDER
        return str(self.inputs.index(Path(argument))) if argument in self.inputs else Path(argument).name


@dataclass(frozen=True)
class Place:
    """A node's place among the nodes of a run.

    Attributes:
        node: its number; the first is 0.
        nodes: in all.
        host: the first node's, for torchrun's rendezvous, which has the port after that of the nodes' own.
        port: of that rendezvous.
        address: this machine's, on the way to the other nodes.
    """

    node: int = 0
    nodes: int = 1
    host: str = ""
    port: int = 0
    address: str = ""

    def torchrun_options(self) -> list[str]:
        """Return torchrun's options; ranks follow the nodes' numbers, so that the first node has rank 0."""
        if self.nodes == 1:
            return ["--standalone"]
        rendezvous = ["--rdzv-backend=static", f"--master-addr={self.host}", f"--master-port={self.port}"]
        return [f"--nnodes={self.nodes}", f"--node-rank={self.node}", *rendezvous]

    def environment(self, device: torch.device) -> dict[str, str]:
        """Return environment variables that name this machine's network interface on the way to the other nodes.

        By themselves gloo and HCCL take the interface of the host's name, which on many machines is the loopback.
        """
        interfaces = psutil.net_if_addrs().items()
        names = [name for name, addresses in interfaces if any(a.address == self.address for a in addresses)]
        if not names:
            return {}
        found = network_environment(device, names[0], self.address)
        given = {name: os.environ[name] for name in found if name in os.environ}
        shown = " ".join(f"{name}={value}" for name, value in (found | given).items())
        log.info("network: %s (%s)", shown, "as set" if given else "the way to the first node")
        return found


ONE_NODE = Place()


def describe_code() -> dict[str, str]:
    """Return the sha256 of each file of m2det's code, by its path in the package."""
    package = Path(__file__).parents[1]
    files = [path for suffix in ("py", "pyx") for path in package.rglob(f"*.{suffix}")]
    return {path.relative_to(package).as_posix(): file_sha256(path) for path in sorted(files)}


def describe_versions() -> dict[str, str]:
    """Return the versions of the packages that shape the numbers, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def meet(work: Work, params: Params, processes: int) -> tuple[Place, list[Peer]]:
    """Wait for the other nodes, and send each its work.

    Args:
        work: of the processes.
        params: for run.nodes, run.rendezvous and run.join_timeout.
        processes: of each node.

    Returns:
        This node's place, and the other nodes.

    Raises:
        InputError: nodes did not come in time, or the port is in use.
    """
    host, port = parse_address(params.run.rendezvous)
    offer = {
        "protocol": PROTOCOL,
        "params": params.model_dump(mode="json"),
        "processes": processes,
        "device": choose_device(params.run.device).type,
        "versions": describe_versions(),
        "code": describe_code(),
        "cache": work.cache_digest,
    }
    peers = _gather(host, port, params.run.nodes, offer, params.run.join_timeout)
    # of a connection, since HOST may be this machine's name, which on many machines is the loopback's
    addresses = [peer.address for peer in peers]
    address = next((one for one in addresses if not ip_address(one).is_loopback), addresses[0])
    place = Place(0, params.run.nodes, host, port + 1, address)
    start: dict[str, Any] = {"module": work.module, "arguments": work.describe_arguments(), "first": node_name(0)}
    start |= {"inputs": [path.name for path in work.inputs], "nodes": place.nodes, "host": host, "port": place.port}
    for i, peer in enumerate(peers, 1):
        peer.name = node_name(i, peer.name)
    for i, peer in enumerate(peers, 1):
        with _explain_loss(peer):
            peer.send("start", **start, node=i, name=peer.name)
    for peer, path in product(peers, work.inputs):
        with _explain_loss(peer):
            peer.send_file(path)
    for peer in peers:  # all have their files: nodes watch each other from here on
        with _explain_loss(peer):
            peer.send("go")
    log.info("%d nodes: %s", place.nodes, ", ".join([node_name(0), *(peer.name for peer in peers)]))
    return place, peers


@contextmanager
def _explain_loss(peer: Peer) -> Iterator[None]:
    try:
        yield
    except NodeLostError as lost:
        raise InputError(f"{peer.name} {lost} before the start; give the same command again") from lost


def node_name(number: int, host: str = "") -> str:
    """Return a node's name for sentences; `host` is by default this machine's."""
    return f"node {number} ({host or socket.gethostname()})"


def _gather(host: str, port: int, nodes: int, offer: Mapping[str, Any], timeout: float) -> list[Peer]:
    """Return as many other nodes as a run needs, by their time of arrival, named by their hosts."""
    command = f"`m2det join {host}:{port} --cache DIR`"
    connected: list[Peer] = []
    ready: list[Peer] = []
    refusals: dict[str, str] = {}  # by host
    begun = time.monotonic()
    next_beat, next_line = begun, begun
    with _listen(port) as server:
        while len(ready) < nodes - 1:
            now = time.monotonic()
            missing = f"{nodes - 1 - len(ready)} of {nodes} nodes"
            here = ", ".join([node_name(0), *(peer.name for peer in ready)])
            if now > begun + timeout:
                refused = "".join(f"{name} refused ({why}); " for name, why in refusals.items())
                raise InputError(
                    f"{missing} did not come to {host}:{port} within run.join_timeout = {timeout:g} s; here: {here}; "
                    f"{refused}run {command} on each of the others"
                )
            if now >= next_line:
                next_line = now + REMIND_SECONDS
                log.info("waiting for %s, up to %g s: %s; here: %s", missing, begun + timeout - now, command, here)
            arrived = wait([server, *(peer.connection for peer in connected)], BEAT_SECONDS)
            if server in arrived:
                connected += _accept(server, offer)
            for peer in [peer for peer in connected if peer.connection in arrived]:
                connected = _hear(peer, connected, ready, refusals)
            if now >= next_beat:
                next_beat = now + BEAT_SECONDS
                _send_beats(connected)
    for peer in connected:
        if peer not in ready[: nodes - 1]:
            peer.close()  # one too many
    return ready[: nodes - 1]


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port))
    except OSError as error:
        raise InputError(f"run.rendezvous: this machine cannot take the port {port} ({error})") from error


def _accept(server: socket.socket, offer: Mapping[str, Any]) -> list[Peer]:
    connected, (address, _) = server.accept()
    peer = Peer(connected, str(address))
    try:
        peer.send("offer", **offer)
    except NodeLostError:
        return []
    return [peer]


def _hear(peer: Peer, connected: Sequence[Peer], ready: list[Peer], refusals: dict[str, str]) -> list[Peer]:
    """Take a message of a node that has connected; return those that are still connected."""
    try:
        message = peer.receive()
        if message["kind"] == "ready" and peer not in ready:
            peer.name = str(message["host"])
            if peer.name in [socket.gethostname(), *(other.name for other in ready)]:
                log.warning("warning: two nodes are named %s; on one machine they would share its devices", peer.name)
            ready.append(peer)
            log.info("%s has joined", peer.name)
        if message["kind"] == "refuses" and refusals.get(message["host"]) != message["sentence"]:
            refusals[message["host"]] = message["sentence"]
            log.warning("warning: %s cannot join: %s", message["host"], message["sentence"])
        if message["kind"] != "refuses":
            return list(connected)
    except (NodeLostError, KeyError) as lost:
        if peer in ready:
            ready.remove(peer)
            log.warning("warning: %s has joined, but %s; another one is waited for", peer.name, lost)
    peer.close()
    return [other for other in connected if other is not peer]


def _send_beats(peers: Sequence[Peer]) -> None:
    for peer in peers:
        try:
            peer.send("beat")
        except NodeLostError:
            continue  # its connection says so, too, and `_hear` learns it
