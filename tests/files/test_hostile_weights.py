"""Weights that a user brings, of any kind: one sentence, before they take memory."""

import collections
import pickle
import subprocess
import sys
import time
import zipfile

import pytest
import torch

from m2det.cli.main import main
from m2det.errors import InputError
from m2det.files.tensors import save_tensors
from m2det.files.untrusted import read_tensors
from m2det.model import build_model
from m2det.model.pretrained import load_backbone, load_initial
from tests.conftest import ROOT

SECONDS = 5.0  # of this process


def refused(path, read=read_tensors):
    start = time.process_time()
    with pytest.raises(InputError) as error:
        read(path)
    sentence = str(error.value)
    assert str(path) in sentence and len(sentence.splitlines()) == 1 and len(sentence) < 1000, sentence
    assert time.process_time() - start < SECONDS
    return sentence


HOSTILE = {
    "expanded": lambda: {"a": torch.zeros(1).expand(10**6, 10**6)},
    "expanded in part": lambda: {"a": torch.zeros(1000, 1).expand(1000, 10**6)},
    "one storage, many names": lambda: {str(i): torch.zeros(1).expand(1000) for i in range(3)},
    "sparse": lambda: {"a": torch.eye(3).to_sparse()},
    "compressed rows": lambda: {"a": torch.eye(3).to_sparse_csr()},
    "quantized": lambda: {"a": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)},
    "meta": lambda: {"a": torch.zeros(10**9, device="meta")},
    "complex": lambda: {"a": torch.zeros(3, dtype=torch.complex64)},
    "float8": lambda: {"a": torch.zeros(3).to(torch.float8_e5m2)},
    "whole numbers": lambda: {"a": torch.zeros(3, dtype=torch.int64)},
    "truths": lambda: {"a": torch.zeros(3, dtype=torch.bool)},
    "not a number": lambda: {"a": torch.tensor([1.0, float("nan")])},
    "infinite": lambda: {"a": torch.tensor(float("inf"))},
    "names that are numbers": lambda: {1: torch.zeros(1)},
    "no names": lambda: [torch.zeros(1)],
    "one tensor": lambda: torch.zeros(1),
    "nothing": lambda: {},
    "a list under state_dict": lambda: {"state_dict": [torch.zeros(1)]},
    "twice": lambda: {"a": torch.zeros(1), "module.a": torch.ones(1)},
    "code": lambda: {"a": print},
    "nested": lambda: {"a": {"b": torch.zeros(1)}},
    "many": lambda: dict.fromkeys(map(str, range(30_000)), torch.zeros(1)),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_state_dict_of_plain_numbers_is_one_sentence(tmp_path, kind, zipped):
    path = tmp_path / "weights.pth"
    try:
        torch.save(HOSTILE[kind](), path, _use_new_zipfile_serialization=zipped)
    except Exception as error:
        pytest.skip(f"torch cannot write it so: {error}")
    refused(path)


def test_plain_ones_are_read(tmp_path):
    base = torch.arange(6.0)
    state = {"module.a": base.view(2, 3).t(), "b": base.half(), "c": torch.tensor(3), "d": torch.nn.Parameter(base)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "weights.pth")
    found = read_tensors(tmp_path / "weights.pth")
    assert list(found) == ["a", "b", "c", "d"] and torch.equal(found["a"], base.view(2, 3).t())


MEMORY = 4 << 30  # of address space, most of which torch takes for itself
READ = f"""
import resource, sys, time
from pathlib import Path
from m2det.errors import InputError
from m2det.files.untrusted import read_tensors
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
for name in sys.argv[1:]:
    start, took = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_tensors(Path(name))
    except InputError as error:
        assert len(str(error).splitlines()) == 1, error
        assert time.process_time() - start < {SECONDS}, name
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - took < 400_000, name
        print(error)
"""


def text(value):
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def number(value):
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


SAME_HASH = range(0, 30_000 * (2**61 - 1), 2**61 - 1)
PAIRS = b"".join(b"](" + text(str(i)) + b"Ne" for i in range(20_000))  # as Python 2 wrote an OrderedDict
LIST_OF_PAIRS = b"](" + PAIRS + b"e"
ODD = b"ccollections\nOrderedDict\n"
COSTLY = {  # pickles of few bytes that make many others
    "bytearray": b"cbuiltins\nbytearray\n" + number(10**10) + b"\x85R.",
    "bytearray of Python 2": b"c__builtin__\nbytearray\n" + number(10**10) + b"\x85R.",
    "hex": b"c_codecs\nencode\nq\0"
    + text("x")
    + text("latin1")
    + b"\x86R"
    + (b"q\1h\0h\1" + text("hex") + b"\x86R") * 29
    + b".",
    "punycode": b"c_codecs\nencode\n" + text("".join(map(chr, range(0x4E00, 0x8C00)))) + text("punycode") + b"\x86R.",
    "one hash": b"}(" + b"".join(number(value) + b"N" for value in SAME_HASH) + b"u.",
    "one hash, one by one": b"}" + b"".join(number(value) + b"Ns" for value in SAME_HASH) + b".",
    "tuples as keys": b"}(" + b"".join(b"J" + i.to_bytes(4, "little") + b"\x85N" for i in range(9)) + b"u.",
    "set": b"cbuiltins\nset\n](" + b"".join(map(number, SAME_HASH)) + b"e\x85R.",
    "copies of a dict": LIST_OF_PAIRS + b"q\0](" + (ODD + b"h\0\x85R") * 20_000 + b"e.",
    "copies of a tuple": b"(" + b"K\1" * 20_000 + b"tq\0](" + b"ctorch\nSize\nh\0\x85R" * 20_000 + b"e.",
    "a tensor of any size": b"](" + b"ctorch\nFloatTensor\n" + number(10**9) + b"\x85Re.",
    "a storage of any size": b"ctorch.storage\nUntypedStorage\n" + number(10**10) + b"\x85R.",
    "steps": b"](" + b"N" * 10**7 + b"e.",
    "marks": b"N" * 400_000 + b"(t" * 200_000 + b".",
    "memory of an index": b"}r" + b"\xff\xff\xff\x7f" + b"\x8b" + b"\xff\xff\xff\x7f.",
}


@pytest.mark.slow
def test_a_small_file_takes_neither_memory_nor_time(tmp_path):
    base = tmp_path / "base.pth"
    torch.save({}, base)
    head = b"".join(pickle.dumps(value, 2) for value in (torch.serialization.MAGIC_NUMBER, 1001, {}))
    names = []
    for kind, content in COSTLY.items():
        names += [tmp_path / f"{kind}.pth", tmp_path / f"{kind}, legacy.pth"]
        with zipfile.ZipFile(base) as plain, zipfile.ZipFile(names[-2], "w") as archive:
            for name in plain.namelist():
                archive.writestr(name, b"\x80\2" + content if name.endswith("data.pkl") else plain.read(name))
        names[-1].write_bytes(head + b"\x80\2" + content + pickle.dumps([], 2))
    done = subprocess.run([sys.executable, "-c", READ, *names], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names) == 30, done.stdout
    assert "allocate memory" not in done.stdout and "MemoryError" not in done.stdout


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_trainings_are_read(tmp_path, zipped):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = collections.OrderedDict((f"module.{key}", value) for key, value in net.state_dict().items())
    state._metadata = net.state_dict()._metadata
    content = {
        "state_dict": state,
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "epoch": 3,
        "seed": 2**62,
        "size": torch.Size([1, 2]),
        "type": torch.float16,
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.zeros(3)),
    }
    torch.save(content, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "last.pth")
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in found.items())


@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_or_packed_file_is_one_sentence(tmp_path, where):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(100_000.0)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * where)])
    refused(path)
    path.write_bytes(data)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert "compressed" in refused(packed)


def test_folders_and_texts_are_one_sentence(tmp_path):
    for name in ("folder.pth", "folder.safetensors"):
        (tmp_path / name).mkdir()
        refused(tmp_path / name)
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("text")
        refused(tmp_path / name)


def test_a_vgg16_of_other_sizes_is_one_sentence(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3), "classifier.0.weight": torch.zeros(4)}, tmp_path / "vgg.pth")
    sentence = refused(tmp_path / "vgg.pth", lambda path: load_backbone("m2det320-vgg16", path))
    assert "this is no VGG16: classifier.0.weight is (4,)" in sentence


def original():
    return build_model("m2det320-resnet18", 4, planes=16, levels=2, scales=4, fused=(16, 32)).state_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"leach.1.conv.weight": None}, "it has no 'leach.1.conv.weight'"),
        ({"conf.0.weight": torch.tensor(3.0)}, "a single number"),
        ({"conf.0.weight": torch.zeros(6, 32, 3, 3)}, "0 classes"),
        ({"conf.0.weight": torch.zeros(6 * 30_000, 0)}, "layer conf.0.weight"),
        ({"unet1.toplayer.0.conv.weight": torch.zeros(10**9, 0)}, "planes is 1000000000"),
        ({f"unet{i}.toplayer.0.conv.weight": torch.zeros(1) for i in range(2, 2000)}, "levels is 1999"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_original_is_one_sentence_of_convert(tmp_path, capsys, change, words):
    state = {key: value for key, value in {**original(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "m2det320.pth")
    start = time.process_time()
    assert main(["convert", str(tmp_path / "m2det320.pth"), str(tmp_path / "out.safetensors")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and len(printed.splitlines()) == 1 and words in printed
    assert time.process_time() - start < SECONDS and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("what", ["absent", "of another shape"])
def test_a_checkpoint_of_a_backbone_that_lacks_a_layer_is_one_sentence(tmp_path, what):
    model = build_model("m2det-tiny", 1)
    state = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("base.")}
    state.pop("base.0.weight")
    if what != "absent":
        state["base.0.weight"] = torch.zeros(1)
    save_tensors(tmp_path / "backbone.safetensors", state, {})
    sentence = refused(tmp_path / "backbone.safetensors", lambda path: load_initial(model, path, 0.5))
    assert "of which 1 layers do not fit or are absent, first base.0.weight" in sentence
