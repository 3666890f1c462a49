"""An exported network computes what PyTorch does, for any batch, and its script names the exact shapes."""

import json
import os
import subprocess

import numpy as np
import onnx
import pytest
import torch

from m2det.boxes import decode_offsets_to_xyxy
from m2det.cli import export
from m2det.cli.main import main
from m2det.detect import onnx_export
from m2det.model import prior_boxes
from m2det.model.model_file import load_trained
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    weights = write_tiny_model(folder)
    assert main(["export", str(weights), "--format", "onnx", "--out", str(folder / "tiny.onnx")]) == 0
    return weights, folder / "tiny.onnx"


@pytest.mark.parametrize("batch", [1, 3])
def test_boxes_and_scores_are_pytorchs(exported, batch):
    onnxruntime = pytest.importorskip("onnxruntime")
    weights, file = exported
    model, _ = load_trained(weights)
    images = torch.randint(0, 256, (batch, 3, 96, 96), generator=torch.Generator().manual_seed(0)).float()
    session = onnxruntime.InferenceSession(str(file))
    boxes, scores = session.run(["boxes", "scores"], {"images": images.numpy()})
    with torch.inference_mode():
        out = model(images - torch.tensor([104.0, 117.0, 123.0])[:, None, None])
    wanted = decode_offsets_to_xyxy(out["loc"], prior_boxes("m2det-tiny")).numpy()
    assert np.abs(boxes - wanted).max() <= 1e-4
    assert np.abs(scores - out["conf"].softmax(-1).numpy()).max() <= 1e-4


def test_openvino_computes_what_onnxruntime_does(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    openvino = pytest.importorskip("openvino", reason="no openvino here: `pip install openvino` in a copy of .venv")
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(str(exported[1])).run(["boxes", "scores"], {"images": images})
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 on CPUs that are fast at it
    found = openvino.Core().compile_model(str(exported[1]), "CPU", exact)({"images": images})
    for name, expected in zip(("boxes", "scores"), wanted, strict=True):
        assert np.abs(found[name] - expected).max() <= 1e-4


def test_the_script_for_ascend_has_the_shapes_and_asks_for_the_chip(exported):
    script = exported[1].with_name("tiny_atc.sh")
    text = script.read_text()
    assert '--input_shape="images:$BATCH,3,96,96"' in text and "not run on a device" in text
    subprocess.run(["sh", "-n", str(script)], check=True)
    done = subprocess.run(["sh", str(script)], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode != 0 and "SOC_VERSION" in done.stderr


def test_a_network_that_differs_is_not_written(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_export, "make_onnx", lambda *_: onnx.ModelProto())
    monkeypatch.setattr(export, "_session", lambda _: None)
    monkeypatch.setattr(export, "_difference", lambda *_: 0.5)
    assert main(["export", str(exported[0]), "--out", str(tmp_path / "bad.onnx")]) == 1
    assert "differs from PyTorch's by 0.5" in capsys.readouterr().err
    assert not (tmp_path / "bad.onnx").exists()


@pytest.mark.slow
def test_a_name_that_is_no_text_is_exported(exported, tmp_path):
    target = tmp_path / os.fsdecode(b"\xff \xc3\xa9.onnx")
    assert main(["export", str(exported[0]), "--out", str(target)]) == 0
    script = os.fsdecode(b"\xff \xc3\xa9_atc.sh")
    assert {path.name for path in tmp_path.iterdir()} == {target.name, script}
    assert b"--model='\xff \xc3\xa9'.onnx" in (tmp_path / script).read_bytes()


@pytest.mark.parametrize("name", ["bad.onnx", "bad_atc.sh", "n" * 249])
def test_a_failure_leaves_neither_half(exported, tmp_path, monkeypatch, capsys, name):
    """Where a folder is in the place of one, or where only the script's name is longer than a name can be."""
    monkeypatch.setattr(onnx_export, "make_onnx", lambda *_: onnx.ModelProto())
    monkeypatch.setattr(export, "_session", lambda _: None)
    monkeypatch.setattr(export, "_difference", lambda *_: 0.0)
    target = tmp_path / ("bad.onnx" if "bad" in name else f"{name}.onnx")
    if "bad" in name:
        (tmp_path / name).mkdir()
    assert main(["export", str(exported[0]), "--out", str(target)]) == 1
    sentence = capsys.readouterr().err
    assert f"{name} is a folder" in sentence or "too long" in sentence
    assert [path.name for path in tmp_path.iterdir()] == [name] * ("bad" in name)


@pytest.mark.parametrize("stem", ["a b", "x$(touch made)", "x\ntouch made #", "';touch made;'", "-x"])
def test_a_files_name_is_no_command_in_the_script(tmp_path, stem):
    (tmp_path / "bin").mkdir()
    atc = tmp_path / "bin/atc"
    atc.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$OUT"\n')
    atc.chmod(0o755)
    (tmp_path / "script.sh").write_text(export.atc_script(stem, 96))
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SOC_VERSION": "Ascend910B3",
        "OUT": f"{tmp_path}/out",
    }
    subprocess.run(["sh", tmp_path / "script.sh"], env=environment, check=True)
    arguments = (tmp_path / "out").read_text().split("\0")
    assert f"--model={stem}.onnx" in arguments and f"--output={stem}_bs1" in arguments
    assert not (tmp_path / "made").exists()


OPS = {
    *("Add", "BatchNormalization", "Concat", "Conv", "Div", "Exp", "Flatten", "GlobalAveragePool", "MaxPool", "Mul"),
    *("Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Slice", "Softmax", "Sub", "Transpose"),
}


def ops(file):
    return {node.op_type for node in onnx.load_from_string(file.read_bytes()).graph.node}


def test_ascends_compiler_reads_the_versions_and_operators(exported):
    model = onnx.load_from_string(exported[1].read_bytes())
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)] and model.ir_version == 8
    assert ops(exported[1]) == OPS


def test_another_version_is_not_written(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_export, "IR_VERSION", 7)
    assert main(["export", str(exported[0]), "--out", str(tmp_path / "a.onnx")]) == 1
    assert "IR 8; Ascend's atc reads opset 17 and IR 7" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_fixed_batch_computes_no_shapes_and_nms_is_inside(exported, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    target = tmp_path / "fixed.onnx"
    assert main(["export", str(exported[0]), "--out", str(target), "--batch", "3", "--nms"]) == 0
    assert ops(target) == OPS - {"Shape", "Slice"} | {"NonMaxSuppression", "Slice"}
    assert '"${BATCH:=3}"' in (tmp_path / "fixed_atc.sh").read_text()
    [nms] = [n for n in onnx.load_from_string(target.read_bytes()).graph.node if n.op_type == "NonMaxSuppression"]
    assert len(nms.input) == 5
    images = torch.randint(0, 256, (3, 3, 96, 96), generator=torch.Generator().manual_seed(0)).float()
    session = onnxruntime.InferenceSession(str(target))
    boxes, scores, selected = session.run(["boxes", "scores", "selected"], {"images": images.numpy()})
    assert len(selected) > 0
    for image in range(3):
        for label in range(10):
            rows = np.column_stack([boxes[image], scores[image, :, label + 1]])
            candidates = np.flatnonzero(rows[:, 4] > onnx_export.NMS_SCORE)
            kept = torchlike_nms(rows[candidates], onnx_export.NMS_IOU)[: onnx_export.MAX_PER_CLASS]
            theirs = selected[(selected[:, 0] == image) & (selected[:, 1] == label), 2]
            assert sorted(candidates[kept]) == sorted(theirs)


def torchlike_nms(rows, iou_threshold):
    """Return the rows that hard NMS keeps; boxes are x2 - x1 wide."""
    kept, order = [], list(np.argsort(-rows[:, 4], kind="stable"))
    while order:
        best = order.pop(0)
        kept.append(best)
        order = [i for i in order if overlap(rows[best], rows[i]) <= iou_threshold]
    return kept


def overlap(a, b):
    width, height = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_the_file_says_what_it_is(exported):
    model = onnx.load_from_string(exported[1].read_bytes())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["names"]) == [str(digit) for digit in range(10)]
    assert metadata["input_size"] == "96" and metadata["channels"] == "BGR"
    assert json.loads(metadata["mean_bgr"]) == [104, 117, 123] and "x1, y1, x2, y2 in [0,1]" in metadata["outputs"]
