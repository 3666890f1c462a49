"""run.graph: the same training with captured graphs, recorded ones on a CPU; and what is refused."""

import copy

import pytest
import torch

from m2det.config import PrecisionParams
from m2det.device import to_device, to_memory_format
from m2det.distributed.group import ALONE, Group
from m2det.errors import InputError
from m2det.model import build_model
from m2det.train.amp import Precision
from m2det.train.build import build_parts
from m2det.train.graph import graphed_network
from m2det.train.optim import train_mode
from tests.recorded_graphs import RecordedGraph, give_the_cpu_graphs
from tests.training import interrupt_at_5, run, settings

CPU = torch.device("cpu")
O0 = PrecisionParams(opt_level="O0", loss_scale=1.0, dtype="auto", backend="native")


@pytest.fixture
def recorded_graphs(monkeypatch):
    give_the_cpu_graphs(monkeypatch)


def assert_same_weights(a, b):
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.slow
@pytest.mark.usefixtures("recorded_graphs")
@pytest.mark.parametrize(
    "how",
    [
        {"opt_level": "O0", "objective": "multibox", "loss_normalization": "global"},
        {"dtype": "bfloat16", "loss_scale": "dynamic", "freeze_backbone": True, "freeze_bn_stats": True},
    ],
    ids=str,
)
def test_a_training_with_graphs_that_is_resumed_has_the_bits_of_one_without(material, tmp_path, how):
    """Running statistics, moving average and the evaluations in between included."""
    eager = run(material, tmp_path / "eager", settings(**how))
    assert not RecordedGraph.captured
    interrupt_at_5(material, tmp_path / "graphs", settings(**how, graph=True))
    graphs = run(material, tmp_path / "graphs", settings(**how, graph=True))
    forward, backward = 3, 2 if how.get("freeze_backbone") else 3  # the backbone and 2 TUMs
    assert len(RecordedGraph.captured) == forward + backward
    assert len(RecordedGraph.replayed) == 4 * len(RecordedGraph.captured), "each once in each step after the fifth"
    assert graphs.rows == eager.rows
    assert_same_weights(graphs.model, eager.model)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return to_device(build_model("m2det-tiny", 3), CPU)


def step(network, seed):
    """Gradients of a forward and backward pass."""
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(seed))
    outputs = network(to_memory_format(images, CPU))
    (outputs["loc"].square().sum() + outputs["conf"].square().sum()).backward()


@pytest.mark.usefixtures("recorded_graphs")
def test_the_model_itself_has_no_graph(tiny):
    """A copy computes with its own weights, an evaluation with any number of images."""
    keys = list(tiny.state_dict())
    network = graphed_network(tiny, 2, Precision(O0, CPU), CPU)
    assert list(tiny.state_dict()) == keys
    assert [id(p) for p in network.parameters()] == [id(p) for p in tiny.parameters()]
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.zero_()
    for mode in (True, False):
        assert other.train(mode)(torch.ones(3, 3, 96, 96))["loc"].any()
        assert not tiny.train(mode)(torch.ones(3, 3, 96, 96))["loc"].any()
    assert not RecordedGraph.replayed


@pytest.mark.usefixtures("recorded_graphs")
def test_capturing_leaves_the_model_and_the_random_numbers_as_they_were(tiny):
    before, state = copy.deepcopy(tiny), torch.get_rng_state()
    graphed_network(tiny, 2, Precision(O0, CPU), CPU)
    assert_same_weights(tiny, before)
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("recorded_graphs", "group_of_one")
def test_several_processes_average_the_gradients_of_a_section_while_others_are_computed(tiny):
    train_mode(tiny, settings().train)
    eager = copy.deepcopy(tiny)
    share = settings(batch_size=4, microbatch=2).train
    parts = build_parts(tiny, share, O0, CPU, Group(0, 2), False, True)
    replayed = {}  # graphs replayed when the gradient of a section's weight was there

    def note(name, _):
        replayed[name] = len(RecordedGraph.replayed)

    for name in ("base", "unet1", "unet2"):
        weight = next(p for p in tiny.get_submodule(name).parameters() if p.ndim == 4)
        weight.register_post_accumulate_grad_hook(lambda p, name=name: note(name, p))
    for seed in (1, 2):
        for network in (parts.network, eager):
            network.zero_grad()
            step(network, seed)
        for (name, a), (_, b) in zip(tiny.named_parameters(), eager.named_parameters(), strict=True):
            assert torch.equal(a.grad, b.grad), name
        forward = 6 * (seed - 1) + 3
        assert replayed == {"unet2": forward + 1, "unet1": forward + 2, "base": forward + 3}


REFUSED = {
    "compile": ({"compile": True}, "run.compile is true, too: set one of them to false"),
    "sync_bn": ({"sync_bn": True}, "train.sync_bn is true, and nobody documents"),
    "apex": ({"backend": "apex"}, "precision.backend is apex"),
    "accumulation": (
        {"microbatch": 2},
        "each process computes 2 microbatches .* set run.processes to 2, or train.batch_size to 2, or run.graph",
    ),
}


@pytest.mark.usefixtures("recorded_graphs")
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_graphs_is_one_sentence(material, tmp_path, name):
    changes, sentence = REFUSED[name]
    with pytest.raises(InputError, match=f"^run.graph is true, but {sentence}"):
        run(material, tmp_path, settings(**changes, graph=True))


def test_a_cpu_has_no_graphs(material, tmp_path):
    with pytest.raises(InputError, match=r"^run.graph is true, but torch captures no graphs on cpu: set run"):
        run(material, tmp_path, settings(graph=True))


@pytest.mark.usefixtures("recorded_graphs")
def test_a_second_microbatch_would_overwrite_the_gradients_of_the_first(tiny):
    """Why it is refused. Once this fails, torch returns gradients of their own, and the refusal can go."""
    eager = copy.deepcopy(tiny)
    for network in (graphed_network(tiny, 2, Precision(O0, CPU), CPU), eager):
        step(network, 1)
        step(network, 2)
    pairs = zip(tiny.named_parameters(), eager.parameters(), strict=True)
    wrong = {name.split(".")[0] for (name, a), b in pairs if not torch.equal(a.grad, b.grad)}
    assert wrong == {"base", "unet1", "unet2"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_graphs_of_a_gpu_train_as_without(dtype):
    cuda = torch.device("cuda")
    level = "O0" if dtype == "float32" else "O1"
    precision = PrecisionParams(opt_level=level, loss_scale=32.0, dtype="float16", backend="native")
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)).to(cuda)
    losses, statistics = [], []
    for graph in (False, True):
        torch.manual_seed(0)
        model = build_model("m2det-tiny", 3)
        parts = build_parts(model, settings(lr=0.001).train, precision, cuda, ALONE, False, graph)
        losses.append([])
        for _ in range(5):
            parts.optimizer.zero_grad()
            with parts.precision.autocast():
                outputs = parts.network(to_memory_format(images, cuda))
            loss = outputs["loc"].float().square().mean() + outputs["conf"].float().square().mean()
            parts.precision.backward(loss)
            parts.precision.step(parts.optimizer, 1.0, torch.tensor(False, device=cuda))
            losses[-1].append(loss.item())
        statistics.append(model.Norm.running_mean)
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    torch.testing.assert_close(*statistics, rtol=1e-2, atol=1e-2)
