"""A node that takes part in the work of a first one: `m2det join`."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2det.config import Params, check_params
from m2det.device import choose_device
from m2det.distributed.cores import check_workers
from m2det.distributed.launch import (
    RunChild,
    count_processes,
    kept_if_failed,
    longest_end,
    prepare_folder,
    run_torchrun,
)
from m2det.distributed.nodes import CACHE, FOLDER, PROTOCOL, Place, describe_code, describe_versions
from m2det.distributed.peer import OTHER_LANGUAGE, NodeLostError, Peer, parse_address
from m2det.distributed.watch import Watch, ends_with_others
from m2det.errors import InputError, explain_disk_errors
from m2det.files.whole import temporary_folder

log = logging.getLogger(__name__)

MODULES = ("m2det.train.rank", "m2det.evaluate.rank", "m2det.bench.throughput")  # that a first node may have run here
RETRY_SECONDS = 1.0
START_SECONDS = 600  # from being ready to the start, while the first node sends other nodes their files
NAMED = 3  # files that differ


@dataclass(frozen=True)
class OwnCache:
    """This node's packed cache, and the digest of its content."""

    folder: Path
    digest: str


def join(address: str, cache: OwnCache, timeout: float, run_child: RunChild) -> None:
    """Wait for a first node, take part in its work, and end with it.

    Args:
        address: HOST:PORT of the first node: its run.rendezvous.
        cache: this node's.
        timeout: seconds to wait for the first node.
        run_child: starts torchrun.

    Raises:
        FirstNodeAbsentError: the first node did not come in time.
        RefusedError: this node differs from the first one; names how.
        InputError: the work failed, here or on another node; names the node.
        SystemExit: a signal stopped this node.
    """
    host, port = parse_address(address)
    log.info("waiting for the first node at %s, up to %g s", address, timeout)
    deadline = time.monotonic() + timeout
    while True:
        first = _connect(host, port, deadline, timeout)
        try:
            offer = _receive(first, "offer")
            processes, params = _agree(first, offer, cache)
            log.info("joined %s with %d processes; the start follows when all nodes are there", address, processes)
            deadline = math.inf
            start = _receive(first, "start")
        except NodeLostError as lost:
            first.close()
            if deadline == math.inf:  # it was a first node: another one gets the whole time again
                log.info("the first node at %s %s before the start; it is waited for again", address, lost)
                deadline = time.monotonic() + timeout
            elif time.monotonic() > deadline:
                raise FirstNodeAbsentError(f"what listens at {address} is no first node of a run: it {lost}") from lost
            time.sleep(RETRY_SECONDS)
            continue
        return _take_part(first, start, params, processes, cache, run_child)


class FirstNodeAbsentError(InputError):
    """No first node has come in time."""


class RefusedError(InputError):
    """This node differs from the first one."""


def _connect(host: str, port: int, deadline: float, timeout: float) -> Peer:
    """Return the first node, as soon as it listens."""
    while True:
        try:
            return Peer(socket.create_connection((host, port), RETRY_SECONDS), f"the first node ({host})")
        except OSError as error:
            if time.monotonic() > deadline:
                raise FirstNodeAbsentError(
                    f"no first node at {host}:{port} within {timeout:g} s ({error}); run the stage there with "
                    f"run.nodes and with run.rendezvous = {host}:{port}"
                ) from error
            time.sleep(RETRY_SECONDS)


def _receive(first: Peer, kind: str) -> dict[str, Any]:
    """Return the first node's next message that is no sign of life."""
    while (message := first.receive())["kind"] == "beat":
        pass
    if message["kind"] != kind:  # or of another version
        raise NodeLostError(OTHER_LANGUAGE)
    return message


def _agree(first: Peer, offer: Mapping[str, Any], cache: OwnCache) -> tuple[int, Params]:
    """Tell the first node that this one is ready, or why not.

    Returns:
        The processes of each node, and the parameters.

    Raises:
        RefusedError: this node differs from the first one.
        NodeLostError: the first node has ended.
    """
    try:
        params = _compare(offer, cache)
        processes = count_processes(params)
        check_workers(params, processes)
    except InputError as error:
        first.send("refuses", host=socket.gethostname(), sentence=str(error))
        first.close()
        raise RefusedError(str(error)) from error
    first.send("ready", host=socket.gethostname())
    return processes, params


def _compare(offer: Mapping[str, Any], cache: OwnCache) -> Params:
    """Return the first node's parameters. Raises InputError for the first difference that matters."""
    if offer.get("protocol") != PROTOCOL:
        raise InputError(f"the first node has another version of m2det (protocol {offer.get('protocol')})")
    own_versions, versions = describe_versions(), offer["versions"]
    for name in sorted(own_versions.keys() | versions.keys()):
        here, there = (found.get(name, "absent") for found in (own_versions, versions))
        if here != there:
            raise InputError(f"{name} is {here} here and {there} on the first node; install the same")
    own, others = describe_code(), offer["code"]
    if differing := sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name)):
        more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
        raise InputError(
            f"m2det's code differs from the first node's in {', '.join(differing[:NAMED])}{more}; use the same commit"
        )
    raw = offer["params"]
    if offer["cache"] != cache.digest:
        hint = ", or give the copy of data/test: it detects on test images" * (raw["evaluate"]["split"] == "test")
        raise InputError(
            f"the packed cache {cache.folder} (sha256 {cache.digest[:12]}) is not the first node's "
            f"({offer['cache'][:12]}); copy that one here{hint}"
        )
    params = check_params({**raw, "run": raw["run"] | {"processes": offer["processes"]}}, "the first node's parameters")
    if (own_type := choose_device(params.run.device).type) != offer["device"]:
        raise InputError(f"this node computes on {own_type}, the first one on {offer['device']}; set run.device there")
    return params


def _take_part(
    first: Peer, start: Mapping[str, Any], params: Params, processes: int, cache: OwnCache, run_child: RunChild
) -> None:
    module, name = start["module"], start["name"]
    first.name = start["first"]
    assert module in MODULES, module
    place = Place(start["node"], start["nodes"], start["host"], start["port"], first.address)
    log.info("%s of %d: %s", name, place.nodes, module)
    with kept_if_failed("join") as folder, temporary_folder() as received:
        prepare_folder(folder)
        inputs = [received / f"{i}-{Path(file).name}" for i, file in enumerate(start["inputs"])]
        try:
            for path in inputs:
                with explain_disk_errors(path):
                    first.receive_file(path, START_SECONDS)
            first.receive(START_SECONDS)  # "go": the others have their files, too
        except NodeLostError as lost:
            raise InputError(f"{first.name} {lost} before the start") from lost
        arguments = [_own_path(argument, inputs, folder, cache.folder) for argument in start["arguments"]]
        with ends_with_others(Watch([first], folder), name, longest_end(params)):
            run_torchrun(module, arguments, params, processes, folder, run_child, place)
    log.info("%s: the work has ended", name)


def _own_path(argument: str, inputs: list[Path], folder: Path, cache: Path) -> Path:
    """Return what Work.describe_arguments has described."""
    if argument in (CACHE, FOLDER):
        return cache if argument == CACHE else folder
    return inputs[int(argument)] if argument.isdecimal() else folder / Path(argument).name
