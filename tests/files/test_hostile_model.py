"""Damaged and hostile model files: the same model or one sentence, before anything large is built."""

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
import time
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from m2det.cli.convert import convert
from m2det.cli.main import main
from m2det.errors import InputError
from m2det.files.tensors import SHA256, checksum, load_tensors, save_tensors
from m2det.files.torch_file import save_plain
from m2det.files.untrusted import read_tensors
from m2det.model import build_model
from m2det.model.model_file import load_trained, save_trained
from tests.conftest import ROOT
from tests.tiny_model import write_tiny_model

SECONDS = 5.0  # of this process, for a file of some megabytes: more is a hang
EXAMPLES = 150
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def content(model):
    """(tensors, card) of a whole file."""
    return Content(*load_tensors(model)[:2])


class Content(tuple):
    """(tensors, card), which nobody wants printed."""

    def __new__(cls, *parts):
        return super().__new__(cls, parts)

    def __repr__(self):
        return "Content"


@pytest.fixture
def counts():
    """How the examples ended; printed with -s."""
    found = Counter()
    yield found
    print(dict(found))
    assert sum(found.values()) >= EXAMPLES


def write(path, tensors, card, signed=True):
    """A model file with that card, JSON text or an object, and a checksum that is right."""
    if signed and isinstance(card, dict):
        with contextlib.suppress(ValueError):  # nothing that a checksum can be made of
            card = {**card, SHA256: checksum(tensors, card)}
    save_file(tensors, str(path), metadata={"card": card if isinstance(card, str) else json.dumps(card)})
    return path


def outcome(path) -> tuple[str, object]:
    """("loaded", (model, card)) or ("refused", the sentence); nothing else, and soon."""
    start = time.process_time()
    try:
        return "loaded", load_trained(path)
    except InputError as error:
        sentence = str(error)
        assert sentence.startswith(f"{path}") and len(sentence.splitlines()) == 1 and len(sentence) < 1000, sentence
        return "refused", sentence
    finally:
        assert time.process_time() - start < SECONDS


@fuzzed
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("flip", "zero", "cut", "insert", "swap")),
            st.one_of(st.floats(0, 1), st.floats(0, 0.03)),  # of the file; its first part is the header
            st.integers(1, 5000),
            st.binary(min_size=1, max_size=20),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_damaged_file_is_the_same_model_or_one_sentence(model, content, tmp_path, counts, damages):
    whole = model.read_bytes()
    data = bytearray(whole)
    for how, where, length, inserted in damages:
        at = int(where * (len(data) - 1)) if data else 0
        if how == "flip" and data:
            data[at] ^= 1 << length % 8
        elif how == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = inserted
        else:
            data[at : at + len(inserted)] = inserted[: len(data) - at]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    ended, found = outcome(path)
    counts[ended] += 1
    if data == whole:
        assert ended == "loaded"
    if ended == "loaded":
        loaded, card = found
        assert card == content[1] and all(torch.equal(loaded.state_dict()[k], v) for k, v in content[0].items())


NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**40, 10_000_000, 1e308, 1e-320, 0.5]),
    st.sampled_from(["", "x" * 300, "x" * 100_000, "\x1b[2J", "a\nb", "m2det99999-vgg16", "m2det320-resnet152"]),
    st.sampled_from([[], {}, [[]], [None], [0] * 1000, ["a", "a"], {"a": {"b": []}}, [1e308] * 5, [-1.0] * 5]),
)
KEYS = ("model", "overrides", "classes", "category_ids", "trained", "hashes", "params", "deps", "unknown", SHA256)
TRAINED = {"epoch": 3, "step": 9, "AP": 0.5, "AP50": -1.0, "scorer": "hotcoco"}
OVERRIDES = (
    *("size", "levels", "scales", "planes", "fused", "sizes", "bn_momentum", "sfam", "smooth", "shared"),
    *("name", "backbone", "unknown"),
)


@fuzzed
@given(
    st.one_of(
        st.tuples(st.just("card"), st.sampled_from(KEYS), NASTY),
        st.tuples(st.just("overrides"), st.sampled_from(OVERRIDES), NASTY),
        st.tuples(st.just("trained"), st.sampled_from([*TRAINED, "unknown"]), NASTY),
        st.tuples(st.sampled_from(["hashes", "params", "deps"]), st.sampled_from(["cache", "x" * 300, "\x1b"]), NASTY),
        st.tuples(st.just("without"), st.sampled_from(KEYS[:8]), st.none()),
    ),
    st.booleans(),
)
def test_a_hostile_card_is_one_sentence_with_and_without_its_checksum(content, tmp_path, counts, change, signed):
    tensors, card = content
    part, key, value = change
    hostile = json.loads(json.dumps(card)) | {"trained": TRAINED, "hashes": {"cache": "0" * 64}}
    hostile |= {"params": {"train.lr": 0.1}, "deps": {"m2det/train": "0" * 32 + ".dir"}}
    if part == "card":
        hostile[key] = value
    elif part != "without":
        hostile[part] = hostile[part] | {key: value}
    else:
        del hostile[key]
    ended, found = outcome(write(tmp_path / "model.safetensors", tensors, hostile, signed))
    counts[f"{ended}, {'signed' if signed else 'unsigned'}"] += 1
    if ended == "loaded":
        assert all(torch.equal(found[0].state_dict()[key], value) for key, value in tensors.items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"model": "m2det-tiny", "model": "m2det-tiny"}',
        '{"model": NaN}',
        '{"model": 1e999}',
        '{"model": ' + "9" * 5000 + "}",
        '{"model": "m2det' + "9" * 5000 + '-vgg16", "overrides": {}, "classes": ["a"], "category_ids": [1]}',
        '{"model": "\\ud800"}',
        '{"sha256": "0"}',
        '{"sha256": null, "model": "m2det-tiny"}',
    ],
    ids=lambda text: text[:20],
)
def test_a_card_that_is_no_object_is_one_sentence(content, tmp_path, text):
    assert outcome(write(tmp_path / "model.safetensors", content[0], text))[0] == "refused"


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype, shape, start, end):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no",
        b"text of some length, which is no header at all\n" * 50,
        pickle.dumps({"a": 1}),
        raw(b"{}", length=2**63),
        raw(b"{}", length=2**40),
        raw(b"\xff\xfe{}"),
        raw(b"[]"),
        raw({}),
        raw({"__metadata__": []}),
        raw({"__metadata__": {"card": 3}}),
        raw(tensor("F32", [2**40, 2**40], 0, 4), bytes(4)),
        raw(tensor("F32", [1], 0, 2**60), bytes(4)),
        raw(tensor("F32", [-1], 0, 4), bytes(4)),
        raw(tensor("F32", [1], 4, 0), bytes(4)),
        raw(tensor("F4", [2], 0, 1), bytes(1)),
        raw(tensor("F8_E5M2", [4], 0, 4), bytes(4)),
        raw(tensor("F6_E2M3", [4], 0, 3), bytes(3)),
        raw(tensor("BOOL", [4], 0, 4), b"\x07" * 4),
        raw(tensor("nothing", [4], 0, 4), bytes(4)),
        raw({str(i): tensor("F32", [0], 0, 0)["a"] for i in range(30_000)}),
        raw(tensor("F32", [10**9, 0], 0, 0)),
        raw(b"{" + b'"a":{' * 50_000),
    ],
    ids=lambda data: data[:30],
)
def test_a_file_of_another_kind_is_one_sentence(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert outcome(path)[0] == "refused"


def test_a_sparse_file_of_gigabytes_is_refused_by_its_shapes(content, tmp_path):
    header = {"__metadata__": {"card": json.dumps({**content[1], SHA256: "0" * 64})}}
    header |= tensor("F32", [10**9], 0, 4 * 10**9)
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(header))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 4 * 10**9)
    start = time.process_time()
    assert "of different networks" in outcome(path)[1] and time.process_time() - start < 2


def test_a_header_of_many_megabytes_is_not_parsed(tmp_path):
    empty = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(b"{" + b",".join(empty % i for i in range(500_000)) + b"}"))
    start = time.process_time()
    assert "8,388,608 are the most" in outcome(path)[1] and time.process_time() - start < 1


def test_a_card_that_would_not_load_is_not_saved(content, tmp_path):
    card = content[1]
    network = build_model(card["model"], len(card["classes"]), **card["overrides"])
    for change, words in (
        ({"classes": ["a"], "category_ids": [1]}, "of different networks"),
        ({"model": "m2det9-none"}, "a card of no network"),
        ({"overrides": {"levels": 3}}, "of different networks"),
    ):
        with pytest.raises(InputError, match=words):
            save_trained(tmp_path / "model.safetensors", network, {**card, **change})
    with pytest.raises(InputError, match="its card has 50000"):
        save_tensors(tmp_path / "model.safetensors", {}, {"a": "b" * 4_999_930})
    with pytest.raises(InputError, match="its header has 8,"):
        save_tensors(tmp_path / "model.safetensors", {"n" * 8_500_000: torch.zeros(1)}, {})
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_utf8_is_named_as_the_fault(model, tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"mod\xffel.safetensors")
    odd.write_bytes(model.read_bytes())
    assert main(["info", str(odd)]) == 1
    printed = capsys.readouterr().err
    assert "has to be UTF-8" in printed and "\\xff" in printed and "damaged" not in printed
    with pytest.raises(InputError, match="has to be UTF-8"):
        convert(odd, tmp_path / "out.pth", None, None)
    with pytest.raises(InputError, match="has to be UTF-8"):
        save_tensors(odd, {}, {})
    original = tmp_path / os.fsdecode(b"m2det\xff.pth")
    save_plain(original, {"a": torch.zeros(1)})  # torch takes any
    assert read_tensors(original)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(content, tmp_path, value):
    """They would be a model that finds nothing, in silence."""
    tensors = {key: v.clone() for key, v in content[0].items()}
    tensors["loc.0.weight"][0, 0, 0, 0] = value
    _, sentence = outcome(write(tmp_path / "model.safetensors", tensors, content[1]))
    assert "its weights loc.0.weight are not all finite" in sentence


def test_other_types_and_shapes_are_named(content, tmp_path):
    tensors, card = content
    changed = {"half": ("loc.0.bias", tensors["loc.0.bias"].half()), "of 25": ("loc.0.bias", torch.zeros(25))}
    changed |= {"of ints": ("Norm.weight", tensors["Norm.weight"].int()), "more": ("extra", torch.zeros(1))}
    for name, (key, value) in changed.items():
        _, sentence = outcome(write(tmp_path / name, {**tensors, key: value}, card))
        assert "of different networks" in sentence and key in sentence
    _, sentence = outcome(write(tmp_path / "classes", tensors, {**card, "classes": ["a"], "category_ids": [1]}))
    assert "conf.0.bias" in sentence


def test_a_file_of_an_earlier_version_loads_with_a_warning(content, tmp_path, caplog):
    ended, (loaded, card) = outcome(write(tmp_path / "model.safetensors", *content, signed=False))
    assert ended == "loaded" and card == content[1] and loaded.num_classes == 10
    assert caplog.text.count("has no checksum") == 1


def test_equal_models_are_equal_bytes(model, tmp_path):
    assert write_tiny_model(tmp_path).read_bytes() == model.read_bytes()
    assert SHA256 not in load_file(model), "it stands in the card"


@pytest.mark.parametrize("command", ["info", "detect"])
def test_the_commands_end_with_one_line(content, tmp_path, capsys, command):
    folder = tmp_path / "a folder.safetensors"
    folder.mkdir()
    hostile = {**content[1], "overrides": {"levels": 10_000_000}}
    paths = [folder, write(tmp_path / "levels", content[0], hostile), tmp_path / "text"]
    paths[2].write_text("text")
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((40, 40, 3), np.uint8))
    for path in paths:
        options = {
            "info": [str(path)],
            "detect": [str(tmp_path / "picture.png"), "--weights", str(path), "--out", str(tmp_path / "out")],
        }
        assert main([command, *options[command]]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith(f"error: {path}") and len(printed.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_hostile_file_is_one_line_of_a_process_too(content, tmp_path):
    """No warnings of libraries, no traceback behind the sentence."""
    path = write(tmp_path / "model.safetensors", content[0], {**content[1], "overrides": {"size": 10**12}})
    command = [sys.executable, "-m", "m2det.cli.main", "info", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "it takes 16 to 4096" in done.stderr


def test_names_cannot_move_the_cursor(content, tmp_path, capsys):
    card = {**content[1], "classes": ["\x1b[2J", *content[1]["classes"][1:]]}
    assert main(["info", str(write(tmp_path / "model.safetensors", content[0], card))]) == 0
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed and "\x1b" not in printed
