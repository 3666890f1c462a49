"""Two nodes train as one: two torchruns on this machine, each for its node, with gloo."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from m2det.config import load_params
from m2det.data.packed.reader import cache_digest
from m2det.distributed.children import run_child
from m2det.distributed.launch import launch
from m2det.distributed.nodes import Work
from m2det.model.model_file import save_trained
from m2det.train.checkpoint import checkpoints, last_step, step_of
from m2det.train.rank import train_distributed
from tests.processes import none_left
from tests.train.hosts import Loopback, Node, make_hosts
from tests.training import write_params

pytestmark = pytest.mark.slow
EPOCHS, SAVE_EVERY, GRACE = 40, 5, 6


@pytest.fixture
def hosts():
    made = make_hosts()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As each of two processes of one node would have on two cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def write(folder: Path, hosts, **options) -> Path:
    """Parameters of a training of two nodes with one process each."""
    nodes = {"processes": 1, "nodes": 2, "rendezvous": hosts.address, "microbatch": 2, "stop_grace": GRACE}
    return write_params(folder, **nodes | options)


def train_on_one_node(material, folder: Path, **options):
    params_file = write_params(folder, microbatch=2, **options)
    return train_distributed(load_params(params_file), params_file, *material, folder / "state", 2, run_child)


def start(hosts, material, folder: Path, params_file: Path, cache: Path | None = None, *options: str):
    """The first node and the other one."""
    first = Node(hosts, 0, folder, "tests.train.one_node", params_file, *material, folder)
    other = Node(hosts, 1, folder, "m2det", "join", hosts.address, "--cache", cache or material[0], *options)
    return first, other


def assert_same(found: dict, wanted: dict) -> None:
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_two_nodes_train_the_bytes_of_one(material, tmp_path):
    hosts = Loopback()
    one = train_on_one_node(material, tmp_path)
    first, other = start(hosts, material, tmp_path, write(tmp_path / "two", hosts))
    assert (first.ended(120), other.ended(20)) == (0, 0), first.printed + other.printed
    assert_same(torch.load(tmp_path / "trained.pt"), one.model.state_dict())
    assert "2 nodes: node 0 (" in first.printed and "node 1 (" in first.printed


@pytest.mark.long
def test_three_nodes_and_two_with_two_processes_train_the_bytes_of_one(material, tmp_path):
    """A node that was lost is told by the first one to the third."""
    for nodes, processes in ((3, 1), (2, 2)):
        folder, hosts = tmp_path / f"{nodes} {processes}", Loopback()
        world = nodes * processes
        options = {"batch_size": 2 * world, "processes": world}
        params_file = write_params(folder / "one", microbatch=2, **options)
        one = train_distributed(load_params(params_file), params_file, *material, folder / "one", world, run_child)
        file = write(folder, hosts, batch_size=2 * world, nodes=nodes, processes=processes, workers=1)
        first = Node(hosts, 0, folder, "tests.train.one_node", file, *material, folder)
        command = ("m2det", "join", hosts.address, "--cache", material[0])
        others = [Node(hosts, 1, folder, *command) for _ in range(nodes - 1)]
        assert first.ended(180) == 0, first.printed
        assert [other.ended(30) for other in others] == [0] * (nodes - 1)
        assert_same(torch.load(folder / "trained.pt"), one.model.state_dict())
        shutil.rmtree(folder / "state")
        first = Node(hosts, 0, folder, "tests.train.one_node", file, *material, folder)
        others = [Node(hosts, 1, folder, *command) for _ in range(nodes - 1)]
        first.wait_for(lambda log=first.log: "step 1/" in log.read_text())
        others[-1].process.kill()
        ended = [each.ended(GRACE + 20) for each in (first, *others[:-1])]
        assert set(ended) == {1}, first.printed
        for each in (first, *others[:-1]):
            assert "has ended, or the network to it is down" in each.printed.splitlines()[-1], each.printed


LONG = {"epochs": EPOCHS, "save_every": SAVE_EVERY, "evaluate_every": 100}


@pytest.fixture(scope="module")
def undisturbed(material, tmp_path_factory):
    """The weights of a longer training on one node."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        result = train_on_one_node(material, tmp_path_factory.mktemp("undisturbed"), **LONG)
    return result.model.state_dict()


def kill_torchrun(hosts, first, other):  # noqa: ARG001
    os.kill(other.children("quiet_torchrun")[0], signal.SIGKILL)


def kill_rank(hosts, first, other):  # noqa: ARG001
    os.kill(other.children("m2det.train.rank")[-1], signal.SIGKILL)


def kill_rank_zero(hosts, first, other):  # noqa: ARG001
    os.kill(first.children("m2det.train.rank")[-1], signal.SIGKILL)


def kill_join(hosts, first, other):  # noqa: ARG001
    other.process.kill()


def kill_first(hosts, first, other):  # noqa: ARG001
    first.process.kill()


def stop_join(hosts, first, other):  # noqa: ARG001
    other.process.terminate()


def stop_first(hosts, first, other):  # noqa: ARG001
    first.process.terminate()


def cut_link(hosts, first, other):  # noqa: ARG001
    if not hosts.links:
        pytest.skip("network namespaces cannot be made here, so no link can be cut")
    hosts.set_link("down")


KILLED = "process {} ended (signal SIGKILL)"
DISTURBANCES = {
    # how -> what the first node says, what the other one says; None: it was killed
    kill_torchrun: ("node 1 (", "torchrun ended (signal SIGKILL)", "torchrun ended (signal SIGKILL)"),
    kill_rank: ("node 1 (", KILLED.format(1), KILLED.format(1)),
    kill_rank_zero: ("node 0 (", KILLED.format(0), KILLED.format(0)),
    kill_join: ("node 1 (", "has ended, or the network to it is down", None),
    kill_first: ("node 0 (", None, "has ended, or the network to it is down"),
    stop_join: ("node 1 (", "was stopped by SIGTERM", ""),
    stop_first: ("node 0 (", "", "was stopped by SIGTERM"),
    cut_link: ("node ", "has not answered for 20 s", "has not answered for 20 s"),
}


@pytest.mark.long
@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda disturb: disturb.__name__)
def test_a_disturbed_training_ends_with_a_sentence_and_goes_on_to_the_same_bytes(
    material, undisturbed, tmp_path, hosts, disturb
):
    params_file, state = write(tmp_path, hosts, **LONG), tmp_path / "state"
    first, other = start(hosts, material, tmp_path, params_file)
    first.wait_for(lambda: checkpoints(state) and step_of(checkpoints(state)[-1]) > 12)
    begun = time.monotonic()
    disturb(hosts, first, other)
    silent = 25 if disturb is cut_link else 0
    statuses = first.ended(GRACE + 15 + silent), other.ended(GRACE + 15 + silent)
    print(f"{disturb.__name__}: ended after {time.monotonic() - begun:.1f} s; {first.printed}{other.printed}")
    assert none_left(tmp_path)
    node, *sentences = DISTURBANCES[disturb]
    for one, sentence, status in zip((first, other), sentences, statuses, strict=True):
        if sentence:
            line = one.printed.splitlines()[-1]
            assert line.startswith(f"error: {node}") and sentence in line and status == 1, one.printed
        if sentence == "":
            assert status == 143, one.printed
    done = max(map(int, re.findall(r"^step (\d+)/", (state / "log.txt").read_text(), re.MULTILINE)))
    assert last_step(state) >= done - SAVE_EVERY
    if hosts.links:
        hosts.set_link("up")
    first, other = start(hosts, material, tmp_path, params_file)
    assert (first.ended(240), other.ended(30)) == (0, 0), first.printed + other.printed
    assert f"resuming at step {last_step(state)}" not in first.printed or done
    assert re.search(r"resuming at step \d+ of", first.printed), first.printed
    assert_same(torch.load(tmp_path / "trained.pt"), undisturbed)


@pytest.mark.long
def test_a_node_that_comes_late_is_waited_for_and_one_that_stays_goes_on_after_a_failure(material, tmp_path, hosts):
    params_file = write(tmp_path, hosts)
    first = Node(hosts, 0, tmp_path, "tests.train.one_node", params_file, *material, tmp_path)
    first.wait_for(lambda: "waiting for 1 of 2 nodes" in first.printed)
    time.sleep(5)
    other = Node(hosts, 1, tmp_path, "m2det", "join", hosts.address, "--cache", material[0], "--stay", "--timeout", 20)
    first.wait_for(lambda: checkpoints(tmp_path / "state"))
    first.process.kill()
    other.wait_for(lambda: "error: node 0 (" in other.printed)
    assert none_left(tmp_path)
    again = Node(hosts, 0, tmp_path, "tests.train.one_node", params_file, *material, tmp_path)
    assert again.ended(120) == 0, again.printed
    assert other.ended(60) == 0 and "this node has done its part" in other.printed, other.printed


def test_who_does_not_come_is_named_and_who_differs_is_refused(material, tmp_path, hosts):
    """Another cache, and nobody else: the first node's time-out names both."""
    cache = tmp_path / "cache"
    shutil.copytree(material[0], cache)
    truth = cache / "val.json"
    truth.write_bytes(truth.read_bytes() + b"\n")
    first, other = start(hosts, material, tmp_path, write(tmp_path, hosts, join_timeout=8), cache)
    assert (first.ended(60), other.ended(60)) == (1, 1)
    own, firsts = cache_digest(cache)[:12], cache_digest(material[0])[:12]
    refusal = f"the packed cache {cache} (sha256 {own}) is not the first node's ({firsts}); copy that one here"
    assert other.printed.splitlines()[-1] == f"error: {refusal}"
    last = first.printed.splitlines()[-1]
    assert last.startswith(f"error: 1 of 2 nodes did not come to {hosts.address} within run.join_timeout = 8 s; here: ")
    assert refusal in last


@pytest.mark.long
def test_evaluation_and_performance_of_two_nodes(material, undisturbed, tmp_path):
    """The detections are the bytes of one process, every image once."""
    from m2det.model import build_model

    model = build_model("m2det-tiny", 1, sfam=True)
    model.load_state_dict(undisturbed)
    trained = tmp_path / "model.safetensors"
    card = {"model": "m2det-tiny", "overrides": {"sfam": True}, "classes": ["square"], "category_ids": [1]}
    save_trained(trained, model, card)
    found = {}
    for nodes in (1, 2):
        folder = tmp_path / f"{nodes}"
        file = write(folder, hosts := Loopback(), nodes=nodes)
        for module, source, arguments in (
            ("m2det.evaluate.rank", trained, (file, material[0], trained, folder / "out.json", folder)),
            ("m2det.bench.throughput", material[1], (file, *material, folder)),
        ):
            work = Work(module, arguments, folder, (file, source), material[0], cache_digest(material[0]))
            command = ("m2det", "join", hosts.address, "--cache", material[0])
            others = [Node(hosts, 1, folder, *command) for _ in range(nodes - 1)]
            launch(work, load_params(file), 1, run_child)
            assert [other.ended(30) for other in others] == [0] * (nodes - 1)
        found[nodes] = (folder / "out.json").read_bytes()
        measured = json.loads((folder / "performance.json").read_text())
        assert measured["processes"] == nodes and measured["images_per_step"] == 4
    assert found[1] == found[2] and len(json.loads(found[1])) > 14
