"""Every setting, with every kind of value: refused in one line that names it, or seen to work where it is used."""

import copy
import datetime
import json
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2det.config import Params, check_params, dotted, load_params, parameter_keys
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.sampler import TrainingBatchSampler
from m2det.data.sampling import sample_augmentation
from m2det.data.sources.manifest import roots_of
from m2det.distributed.cores import check_workers
from m2det.distributed.launch import count_processes
from m2det.errors import InputError
from m2det.evaluate.postprocess import postprocess
from m2det.model import get_config, prior_boxes
from m2det.model.config import M2DetConfig
from m2det.model.initial import download
from m2det.train.amp import Precision
from m2det.train.build import make_objective
from m2det.train.ema import ModelEma
from m2det.train.optim import make_optimizer, scaled_lr
from m2det.train.schedule import learning_rate
from tests.conftest import ROOT

SHIPPED_PARAMS = load_params(ROOT / "params.yaml")
SHIPPED = SHIPPED_PARAMS.model_dump()
CPU = torch.device("cpu")
VALUES = [
    *(None, True, False, "", "x", "auto", "1", "1e3", "True", "\n", "a\x00b", "\ud800", "${x}", "???", "x" * 10**6),
    *(-1, 0, 1, 2, 3, 16, 100, 255, 1000, 2**15, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**5000),
    *(-1.0, -0.0, 0.0, 5e-324, 1e-300, 1e-40, 1e-8, 1e-6, 0.1, 0.5, 0.99, 0.999, 1.0, 1 + 1e-9, 1.5, 10.0, 1000.0),
    *(2.0**24, 1e6, 1e26, 1e300, math.inf, -math.inf, math.nan),
    *([], [1], [0.5], ["x"], [0.5, 0.5], [0.8, 0.2], [0.1, 0.2], [-1.0, 0.5], [math.nan, math.inf], [[]], [None]),
    *(
        [1.0, 0.5, 0.1, 0.01, 0.001],
        [0.1, 0.2, 0.5, 0.9],
        [0.0, 1.0, 1.0],
        [1e300] * 5,
        [1] * 10**5,
        [{"annotations": "a", "images": "b"}],
    ),
    *({}, {"levels": 3}, {"x": 1}, {1: 2}, {"bn_momentum": -5.0}, {"sizes": [math.inf] * 5}, {"levels": {"a": {}}}),
    *({"a\nb": 1}, {"annotations": "a"}, b"x", datetime.date(2026, 1, 2), 1j, (1.0, 2.0), {1}, object),
]


def bounds(key: str) -> list[object]:
    """The ends of the key's range and the numbers just outside."""
    model, name = Params, key
    if "." in key:
        section, name = key.split(".")
        model = Params.model_fields[section].annotation
    field = model.model_fields[name]
    kinds = [field, *getattr(field.annotation, "__args__", [])]
    ends = [
        end
        for kind in kinds
        for rule in getattr(kind, "metadata", getattr(kind, "__metadata__", []))
        for mark in getattr(rule, "metadata", [rule])
        for end in (getattr(mark, side, None) for side in ("ge", "gt", "le", "lt"))
        if end is not None
    ]
    near = [end + step for end in ends if isinstance(end, int) for step in (-1, 1)]
    return [*ends, *map(float, ends), *near, *(math.nextafter(end, to) for end in ends for to in (-math.inf, math.inf))]


def put(key: str, value: object) -> dict:
    values = {name: dict(inner) if isinstance(inner, dict) else inner for name, inner in SHIPPED.items()}
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    return values


def is_sentence(error: InputError, *names: str) -> None:
    text = str(error)
    assert any(name in text for name in names) and text.isprintable() and len(text) < 1500, text


def use(params: Params) -> None:
    """What a run does with its settings, at a size that takes milliseconds. Raises InputError where it refuses."""
    json.dumps(params.section(*Params.model_fields), allow_nan=False)
    torch.manual_seed(params.seed)
    rng = np.random.default_rng((params.seed, 0, 1))
    processes = count_processes(params)
    check_workers(params, processes)
    roots_of(params.data, ROOT)[1].is_dir()
    (ROOT / params.weights.checkpoint).is_file(), (ROOT / params.weights.source).is_file()
    pack, train, evaluate = params.pack, params.train, params.evaluate
    image = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    stored = ImageEncoding(pack.images, pack.side, pack.quality).encode(
        cv2.imencode(".png", image)[1].tobytes(), "a.png"
    )
    assert stored
    use_for_training(params)
    for size in ((30, 20), (1, 1)):  # no crop fits into a single pixel
        boxes = np.array([[0, 0, *size]], np.float32)
        for _ in range(20):
            sample_augmentation(boxes, *size, rng, train.crop_probability, train.expand_probability, train.hflip)
    loc, conf = torch.zeros(6, 4), torch.randn(6, 3)
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 6)
    how = (evaluate.nms, evaluate.score_threshold, evaluate.nms_iou, evaluate.per_class, evaluate.per_image)
    assert np.isfinite(postprocess(loc, conf, priors, (9, 9), *how)).all()
    train.accumulation(processes)
    order = TrainingBatchSampler(
        100_000, train.batch_size, params.seed, 10, processes=processes, microbatch=train.microbatch
    )
    assert len(order.batch(0)) == train.batch_size // processes
    TrainingBatchSampler(
        100_000, params.benchmark.batch_size, params.seed, params.benchmark.warmup + params.benchmark.steps
    )
    config = get_config(params.model.name, **params.model.all_overrides)
    if config.size <= 1024:
        assert torch.isfinite(prior_boxes(config)).all()


def use_for_training(params: Params) -> None:
    """One step of a network with one layer, at the rates of the first, a middle and the last epoch."""
    train, network = params.train, torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    rate = scaled_lr(train)
    for epoch in {0, params.epochs // 2, params.epochs - 1}:
        rates = {"factors": train.gammas, "milestones": train.milestones, "warmup": train.warmup}
        for fraction in (0.0, 0.5, 0.999):
            now = learning_rate(epoch, fraction, epochs=params.epochs, base=rate, schedule=train.schedule, **rates)
            assert 0 <= now < 1e12 and math.isfinite(now)
    optimizer, precision = make_optimizer(network, train, rate), Precision(params.precision, CPU)
    average = ModelEma(network, train.ema_decay)
    loss = make_objective(train)
    labels, boxes = torch.tensor([[1] + [0] * 15]), torch.zeros(1, 16, 4)
    boxes[0, 0] = torch.tensor([0.2, 0.2, 0.6, 0.6])
    outputs = {"loc": network(torch.randn(8, 4))[None], "conf": network(torch.randn(8, 4))[None]}
    found = loss(outputs, torch.tensor([[0.4, 0.4, 0.4, 0.4]] * 8), boxes, labels)
    precision.backward(found["loc"] + found["conf"])
    precision.step(optimizer, train.max_grad_norm, torch.zeros((), dtype=torch.bool))
    precision.loss_scale()
    average.update()
    assert all(torch.isfinite(p).all() for p in network.parameters())


def tried(key: str, value: object, names: str = "") -> bool:
    """Whether the value works; if not, a sentence has said so."""
    try:
        use(check_params(put(key, value), "params.yaml"))
    except InputError as error:
        is_sentence(error, names or key.split(".")[-1], *["model", "m2det-tiny: "] * key.startswith("model."))
        return False
    return True


@pytest.mark.slow
def test_every_key_takes_every_value_or_refuses_it_in_a_sentence():
    works: dict[str, list[object]] = {
        key: [value for value in (*VALUES, *bounds(key)) if tried(key, value)] for key in parameter_keys()
    }
    count = sum(len(VALUES) + len(bounds(key)) for key in works)
    print(count, sum(map(len, works.values())))
    assert len(VALUES) > 80 and count > 5000
    assert set(works) == set(dotted(SHIPPED))  # none is forgotten
    for key, value in (
        *(("run.processes", 1025), ("run.workers", 257), ("benchmark.steps", 1e26), ("seed", 2**63), ("seed", 2**64)),
        *(("train.momentum", 1.0), ("train.lr", 1e-300), ("train.max_grad_norm", 1e-300), ("precision.opt_level", [])),
        *(("precision.loss_scale", math.inf), ("precision.loss_scale", 1e-40), ("train.milestones", [0.5, 0.5])),
        *(("model.overrides", {"bn_momentum": -5.0}), ("model.overrides", {"sizes": [0.2, 0.1, 0.3, 0.4, 0.5]})),
        *(("model.overrides", {"sizes": [0.1, 0.2, 0.3, 0.4, math.inf]}), ("epochs", 1.0), ("epochs", "160")),
    ):
        assert not tried(key, value), (key, value)
    assert all(works[key] or isinstance(value, str) for key, value in dotted(SHIPPED).items())


@pytest.mark.slow
@pytest.mark.parametrize("field", sorted({*M2DetConfig.__dataclass_fields__}))
def test_every_field_of_a_model_takes_every_value_or_refuses_it(field):
    for value in (*VALUES, [0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 2.5], [1, 2], [0, 2], [2**70, 2]):
        tried("model.overrides", {field: value}, field)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(parameter_keys()), json_like)
def test_any_value_works_or_is_refused(key, value):
    tried(key, value)


def test_many_faults_make_one_sentence():
    with pytest.raises(InputError) as error:
        check_params({f"key{i}": 1 for i in range(10**4)} | {"a\nb": 1}, "params.yaml")
    is_sentence(error.value, "and 10")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run.processes": 8}, None),
        (
            {"run.processes": 9},
            "run.processes is 9, but on a CPU with 2 usable cores more than 8 together would starve",
        ),
        ({"run.processes": 1024}, "set run.oversubscribe to true in params.yaml"),
        ({"run.processes": 1024, "run.oversubscribe": True}, None),
        ({"run.processes": "auto"}, None),
        ({"run.processes": 1, "run.workers": 8}, None),
        ({"run.processes": 1, "run.workers": 9}, "run.workers is 9, but on a CPU with 2 usable cores more than 8"),
        ({"run.processes": 4, "run.workers": 3}, "run.workers is 3, in each of 4 processes, but on a CPU with 2"),
        ({"run.processes": 4, "run.workers": 3, "run.oversubscribe": True}, None),
    ],
)
def test_what_the_cores_of_a_cpu_do_not_bear_is_refused(changes, sentence, monkeypatch):
    monkeypatch.setattr("m2det.distributed.cores.usable_cores", lambda: 2)
    params = on_the_cpu(**{key.removeprefix("run."): value for key, value in changes.items()})
    if sentence is None:
        check_workers(params, count_processes(params))
        return
    with pytest.raises(InputError) as error:
        check_workers(params, count_processes(params))
    is_sentence(error.value, sentence)


def on_the_cpu(**run) -> Params:
    return SHIPPED_PARAMS.model_copy(update={"run": SHIPPED_PARAMS.run.model_copy(update={"device": "cpu"} | run)})


def test_more_cores_bear_more(monkeypatch):
    monkeypatch.setattr("m2det.distributed.cores.usable_cores", lambda: 16)
    assert count_processes(on_the_cpu(processes=64)) == 64
    with pytest.raises(InputError, match=r"run\.processes is 65, but on a CPU with 16 usable cores more than 64"):
        count_processes(on_the_cpu(processes=65))
    check_workers(on_the_cpu(workers=32), 1)


@pytest.mark.parametrize(
    "name", ["\u3000", "a\u00a0b", "\u0645\u06cc\u200c\u062e", "\U0001f468\u200d\U0001f469", "\u2009"]
)
def test_folders_may_have_any_name_that_shows(name):
    raw = copy.deepcopy(SHIPPED)
    raw["data"]["root"] = f"/data/{name}"
    assert check_params(raw, "params.yaml").data.root == f"/data/{name}"


@pytest.mark.parametrize("name", ["\u202e", "\u200b", "\ufeff", "\x85", "\u2028", "\x1b", "\udcff"])
def test_names_that_change_what_is_shown_are_refused(name):
    raw = copy.deepcopy(SHIPPED)
    raw["data"]["root"] = f"/data/{name}"
    with pytest.raises(InputError, match=r"data\.root: ") as error:
        check_params(raw, "params.yaml")
    assert str(error.value).isascii()


@pytest.mark.parametrize("end", ["", ".", "..", "..?a", "..#a", "a/", "a/..?x=/b"])
def test_an_address_of_weights_names_a_file(end):
    raw = copy.deepcopy(SHIPPED)
    raw["weights"]["source"] = f"https://host/a/{end}"
    with pytest.raises(InputError, match="takes the address of a file"):
        check_params(raw, "params.yaml")


@pytest.mark.parametrize("end", ["..;x", "b.pth;x", "b.pth?c=/d", ".;"])
def test_weights_are_kept_under_the_name_that_was_checked(end, monkeypatch, tmp_path):
    raw = copy.deepcopy(SHIPPED)
    raw["weights"] |= {"source": f"https://host/a/{end}", "sha256": "0" * 64}
    checked = check_params(raw, "params.yaml")
    kept = []
    monkeypatch.setattr("m2det.model.initial.fetch", lambda _, sha256, path: kept.append(path) or sha256)
    download(checked.weights.source, checked.weights, tmp_path)
    assert kept == [tmp_path / "models" / "downloads" / end.partition("?")[0]]
