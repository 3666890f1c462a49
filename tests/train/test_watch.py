"""How nodes of a run meet, watch each other and end together, without torchrun."""

import json
import re
import socket
import time
from threading import Thread

import pytest
import torch

from m2det.config import Params
from m2det.device import TRAITS
from m2det.distributed import join, nodes, peer, watch
from m2det.distributed.children import run_child
from m2det.distributed.launch import count_processes
from m2det.distributed.nodes import Place, Work, describe_code, describe_versions
from m2det.distributed.peer import NodeLostError, Peer
from m2det.distributed.watch import End, Watch, Weight, ends_with_others
from m2det.errors import InputError
from tests.train.hosts import free_port
from tests.training import settings

VERSIONS, CODE = describe_versions(), describe_code()
CAUSE = End("node 1 (b)", "node 1 (b): process 3 ended (signal SIGKILL)", Weight.FAILED)


def pair(name: str, other: str) -> tuple[Peer, Peer]:
    """Both ends of a connection, each named by who is at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return Peer(server.accept()[0], other), Peer(client, name)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.1)


@pytest.fixture
def star(tmp_path):
    """Three nodes: the first is connected with both others."""
    to_b, b = pair("node 0 (a)", "node 1 (b)")
    to_c, c = pair("node 0 (a)", "node 2 (c)")
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    peers = ([to_b, to_c], [b], [c])
    return [Watch(others, folder) for others, folder in zip(peers, folders, strict=True)], folders


def consequence(name: str) -> End:
    return End(name, f"{name}: process 0 lost its connection", Weight.CONSEQUENCE)


def test_the_failure_of_one_node_is_the_sentence_of_all(star):
    (a, b, c), folders = star
    assert b.finish(CAUSE, 10) == CAUSE
    assert a.finish(consequence("node 0 (a)"), 10) == CAUSE
    assert c.finish(consequence("node 2 (c)"), 10) == CAUSE
    for folder in (folders[0], folders[2]):
        assert (folder / "other_node.txt").exists()
        assert CAUSE.sentence in (folder / "processes.log").read_text()
    assert not (folders[1] / "other_node.txt").exists()


def test_nodes_that_have_done_their_work_end_no_other(star):
    (a, b, c), folders = star
    for each, name in ((b, "node 1 (b)"), (a, "node 0 (a)"), (c, "node 2 (c)")):
        assert each.finish(End(name, "", Weight.SUCCESS), 10).weight == Weight.SUCCESS
        time.sleep(0.05)
        assert each.cause is None
    assert not any((folder / "other_node.txt").exists() for folder in folders)


def test_nodes_that_all_ended_because_of_another_wait_no_longer_than_for_each_other(star):
    (a, b, c), _ = star
    begun, ends = time.monotonic(), []
    named = ((a, "node 0 (a)"), (b, "node 1 (b)"), (c, "node 2 (c)"))
    threads = [Thread(target=lambda w=w, n=n: ends.append(w.finish(consequence(n), 60))) for w, n in named]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {end.node for end in ends} == {name for _, name in named} and time.monotonic() - begun < 10


def test_a_node_that_vanishes_or_falls_silent_is_lost(tmp_path, monkeypatch):
    to_b, b = pair("node 0 (a)", "node 1 (b)")
    first = Watch([to_b], tmp_path)
    b.close()
    found = first.finish(consequence("node 0 (a)"), 10)
    assert found.node == "node 1 (b)" and "node 1 (b) has ended, or the network to it is down" in found.sentence
    to_b, b = pair("node 0 (a)", "node 1 (b)")
    to_b.heard -= 1000  # while files were sent
    first, other = Watch([to_b], tmp_path), Watch([b], tmp_path)
    time.sleep(1.5)
    assert first.cause is None
    first.finish(End("node 0 (a)", "", Weight.SUCCESS), 1)
    other.finish(End("node 1 (b)", "", Weight.SUCCESS), 1)
    monkeypatch.setattr(watch, "SILENT_SECONDS", 0.5)
    to_b, b = pair("node 0 (a)", "node 1 (b)")
    first = Watch([to_b], tmp_path)
    assert "node 1 (b) has not answered for 0.5 s" in first.finish(consequence("node 0 (a)"), 10).sentence
    b.close()


@pytest.mark.parametrize("own", [f"process 0 {watch.LOST_CONNECTION} (x)", "loss is nan"])
def test_the_cause_is_raised_and_an_own_failure_too(tmp_path, own):
    to_b, b = pair("node 0 (a)", "node 1 (b)")
    (tmp_path / "b").mkdir()
    first, other = Watch([to_b], tmp_path), Watch([b], tmp_path / "b")
    by_other = "lost" in own
    if by_other:
        other.finish(CAUSE, 1)
    sentence = CAUSE.sentence if by_other else f"node 0 (a): {own}"
    with pytest.raises(InputError, match=re.escape(sentence)), ends_with_others(first, "node 0 (a)", 10):
        raise InputError(own)
    if not by_other:
        assert other.finish(consequence("node 1 (b)"), 10).sentence == sentence


def offer(split="val", **changes):
    params = settings(nodes=2, rendezvous="localhost:29500", microbatch=2).model_dump(mode="json")
    params["evaluate"]["split"] = split
    same = {"protocol": nodes.PROTOCOL, "params": params, "processes": 1, "device": "cpu", "cache": "c" * 64}
    return same | {"versions": VERSIONS, "code": CODE} | changes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": 0}, "the first node has another version of m2det"),
        (
            {"versions": describe_versions() | {"torch": "2.0.0"}},
            r"torch is .* here and 2\.0\.0 on the first node; install the same",
        ),
        (
            {"cache": "d" * 64},
            r"the packed cache cache \(sha256 c{12}\) is not the first node's \(d{12}\)",
        ),
        (
            {"code": CODE | {"boxes.py": "other", "new.py": "x"}},
            r"differs from the first node's in boxes\.py, new\.py; ",
        ),
        ({"cache": "d" * 64, "split": "test"}, r"copy that one here, or give the copy of data/test"),
        ({"code": {}}, r"differs from the first node's in .*, .*, .* and \d+ more; use the same commit"),
        ({"device": "npu"}, "this node computes on cpu, the first one on npu"),
        ({"versions": VERSIONS | {"new": "1"}}, "new is absent here and 1 on the first node"),
        ({"processes": 1000}, "run.processes is 1000, but on a CPU with"),
    ],
)
def test_a_node_that_differs_refuses_and_says_in_what(changes, sentence, tmp_path):
    first, other = pair("node 1", "node 0")
    with pytest.raises(join.RefusedError, match=sentence):
        join._agree(other, offer(**changes), join.OwnCache(tmp_path.relative_to(tmp_path) / "cache", "c" * 64))
    told = first.receive()
    assert told["kind"] == "refuses" and told["host"] == socket.gethostname()
    assert re.search(sentence, told["sentence"])


def test_strangers_and_nodes_that_leave_do_not_end_the_waiting(caplog):
    """A port scanner, a browser, a node that was stopped while it waited: the right one is still taken."""
    caplog.set_level("INFO")
    port, found = free_port(), []
    waiting = Thread(target=lambda: found.extend(nodes._gather("localhost", port, 2, {"protocol": 1}, 30)))
    waiting.start()
    address = ("127.0.0.1", port)

    def connect() -> socket.socket:
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(address, 1)
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    connect().close()
    browser = connect()
    browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
    other_language = Peer(connect(), "x")
    other_language.receive()
    other_language._send(json.dumps(["no message"]).encode())
    left = Peer(connect(), "left")
    assert left.receive() == {"kind": "offer", "protocol": 1}
    right = Peer(connect(), "right")
    right.receive()
    left.send("refuses", host="c", sentence="torch is other")
    right.send("ready", host="b")
    waiting.join(20)
    assert [node.name for node in found] == ["b"]
    assert "c cannot join: torch is other" in caplog.text and "b has joined" in caplog.text
    browser.close()


def test_a_stranger_at_the_address_is_told_when_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(join, "RETRY_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connected, _ = server.accept()
                except OSError:
                    return
                connected.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
                connected.close()

        thread = Thread(target=answer)
        thread.start()
        cache = join.OwnCache(tmp_path, "c" * 64)
        with pytest.raises(join.FirstNodeAbsentError, match="is no first node of a run"):
            join.join(f"127.0.0.1:{server.getsockname()[1]}", cache, 1, run_child)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("bug")])
def test_what_is_no_input_error_is_a_failure_and_passes(tmp_path, error):
    to_b, b = pair("node 0 (a)", "node 1 (b)")
    first, other = Watch([to_b], tmp_path), Watch([b], tmp_path)
    with pytest.raises(type(error)), ends_with_others(first, "node 0 (a)", 10):
        raise error
    assert other.finish(consequence("node 1 (b)"), 10).sentence == f"node 0 (a): {type(error).__name__}: {error}"


def test_a_message_that_stops_in_its_middle_is_a_lost_node(monkeypatch):
    monkeypatch.setattr(peer, "SILENT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        node = Peer(server.accept()[0], "b")
    client.sendall(b"\0\0\0\x10half")
    with pytest.raises(NodeLostError, match="has not answered for 1 s"):
        node.receive()
    client.close()


def test_the_network_interface_is_that_of_the_way_to_the_first_node():
    place = Place(1, 2, "localhost", 29501, "127.0.0.1")
    interface = "lo" if "lo" in dict(socket.if_nameindex()).values() else "lo0"
    assert place.environment(torch.device("cpu")) == {"GLOO_SOCKET_IFNAME": interface}
    assert place.environment(torch.device("cuda")) == {"NCCL_SOCKET_IFNAME": f"={interface}"}
    assert TRAITS["npu"].network == {"HCCL_IF_IP": "{address}"}
    assert Place(0, 2, "far", 29501, "203.0.113.7").environment(torch.device("cpu")) == {}
    assert place.torchrun_options()[:2] == ["--nnodes=2", "--node-rank=1"]


def test_inputs_travel_and_outputs_stay(tmp_path):
    params, cache, model, out = (tmp_path / name for name in ("p.yaml", "cache", "m.safetensors", "out.json"))
    work = Work("m2det.evaluate.rank", (params, cache, model, out, tmp_path), tmp_path, (params, model), cache)
    described = work.describe_arguments()
    assert described == ["0", "cache", "1", "out.json", "folder"]
    own = [join._own_path(word, [tmp_path / "0-p", tmp_path / "1-m"], tmp_path, cache) for word in described]
    assert own == [tmp_path / "0-p", cache, tmp_path / "1-m", tmp_path / "out.json", tmp_path]
    assert join._own_path("../../etc/passwd", [], tmp_path, cache) == tmp_path / "passwd"


def test_nodes_need_a_place_to_meet_and_share_a_step(monkeypatch):
    with pytest.raises(ValueError, match=r"run.nodes is 2: set run.rendezvous to HOST:PORT"):
        settings(nodes=2)
    for wrong in ("host", "host:0", "host:65535", "host:port", "ho st:29500", ":29500"):
        with pytest.raises(ValueError, match="takes HOST:PORT"):
            settings(rendezvous=wrong)
    monkeypatch.setattr("m2det.distributed.launch.usable_cores", lambda: 8)
    options = {"nodes": 2, "rendezvous": "a:1", "processes": "auto", "batch_size": 12, "microbatch": 1}
    params: Params = settings(**options)
    assert count_processes(params) == 6 and params.train.accumulation(12) == 1
    assert count_processes(settings(**options | {"batch_size": 5})) == 1
