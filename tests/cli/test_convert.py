"""Checkpoints of the original become model files and come back, to the bit."""

import json

import pytest
import torch

from m2det.cli.main import main
from m2det.model import build_model
from m2det.model.model_file import load_trained, save_trained
from m2det.model.original import infer_config

SMALL = {"planes": 16, "levels": 2, "scales": 4, "fused": (16, 32)}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A checkpoint as the original's training writes it, from DataParallel: (path, state dict)."""
    torch.manual_seed(0)
    state = build_model("m2det320-resnet18", 4, sfam=True, **SMALL).state_dict()
    path = tmp_path_factory.mktemp("original") / "m2det320_resnet18.pth"
    torch.save({"module." + key: value for key, value in state.items()}, path)
    return path, state


def test_there_and_back(original, tmp_path, capsys):
    path, state = original
    model_file, back = tmp_path / "m.safetensors", tmp_path / "back.pth"
    assert main(["convert", str(path), str(model_file)]) == 0
    printed = capsys.readouterr().out
    assert f"keys: {len(state)} matched, 0 missing, 0 unexpected" in printed
    model, card = load_trained(model_file)
    assert (card["model"], model.config.sfam, model.config.levels) == ("m2det320-resnet18", True, 2)
    assert main(["convert", str(model_file), str(back)]) == 0
    returned = torch.load(back, weights_only=True)
    assert list(returned) == list(state)
    assert all(torch.equal(returned[key], value) for key, value in state.items())


def test_classes_come_from_an_annotation_file(original, tmp_path, capsys):
    path, _ = original
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in ((3, "cat"), (1, "dog"), (7, "cow"), (9, "ant"))],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    command = ["convert", str(path), str(tmp_path / "m.safetensors"), "--annotations", str(tmp_path / "a.json")]
    assert main(command) == 0
    _, card = load_trained(tmp_path / "m.safetensors")
    assert (card["classes"], card["category_ids"]) == (["dog", "cat", "cow", "ant"], [1, 3, 7, 9])
    content["categories"].pop()
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert main(command) == 1
    assert "has 3 categories, the checkpoint 4 classes" in capsys.readouterr().err


def test_the_size_is_given_or_assumed_with_a_warning(original, tmp_path, capsys):
    _, state = original
    torch.save({"epoch": 3, "state_dict": dict(state)}, tmp_path / "weights.pth")
    assert main(["convert", str(tmp_path / "weights.pth"), str(tmp_path / "a.safetensors")]) == 0
    assert "512, assumed" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "weights.pth"), str(tmp_path / "b.safetensors"), "--size", "320"]) == 0
    assert [load_trained(tmp_path / f"{n}.safetensors")[0].config.size for n in "ab"] == [512, 320]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("m2det512-vgg16", {}),
        ("m2det512-resnet152", {"sfam": True}),
        ("m2det512-resnet34", {"levels": 3, "smooth": False}),
    ],
)
def test_every_configuration_is_inferred(name, overrides):
    with torch.device("meta"):
        state = build_model(name, 20, **overrides).state_dict()
    for key in ("leach.0.conv.weight", "leach.1.conv.weight"):  # meta tensors have no values to compare
        state[key] = torch.zeros(1)
    assert infer_config(state, 512) == (name, {"sfam": False} | overrides, 20)


@pytest.mark.parametrize("case", ["no detector", "code", "suffixes", "missing"])
def test_what_is_no_checkpoint_ends_in_a_sentence(tmp_path, capsys, case):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"a": print}, tmp_path / "code.pth")
    source, target, sentence = {
        "no detector": ("other.pth", "o.safetensors", "no checkpoint of M2Det: it has no 'reduce.conv.weight'"),
        "code": ("code.pth", "o.safetensors", "cannot be loaded as plain tensors"),
        "suffixes": ("other.pth", "o.onnx", "give ORIGINAL.pth OUT.safetensors"),
        "missing": ("none.pth", "o.safetensors", "none.pth: no such file"),
    }[case]
    assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize(
    ("name", "overrides", "lost"),
    [
        ("m2det-tiny", {}, "its backbone "),
        ("m2det320-resnet18", {**SMALL, "sizes": (0.1, 0.2, 0.3, 0.4, 0.5)}, "its sizes (0.1, 0.2, 0.3, 0.4, 0.5)"),
    ],
)
def test_what_would_not_come_back_is_refused_when_it_is_written(tmp_path, capsys, name, overrides, lost):
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in overrides.items()}
    card = {"model": name, "overrides": lists, "classes": ["a", "b"], "category_ids": [1, 2], "hashes": {}}
    save_trained(tmp_path / "m.safetensors", build_model(name, 2, **overrides), card)
    assert main(["convert", str(tmp_path / "m.safetensors"), str(tmp_path / "m.pth")]) == 1
    assert lost in capsys.readouterr().err and not (tmp_path / "m.pth").exists()
