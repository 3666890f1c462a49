"""The speed of an evaluation is recorded with what it was measured on, and said so."""

import json

import pytest
import torch

from m2det.config import EvaluateParams
from m2det.device import device_name
from m2det.distributed.group import ALONE
from m2det.evaluate.rank import detect_split
from m2det.evaluate.speed import NAME, describe_speed, write_speed
from m2det.model import build_model
from m2det.model.model_file import save_trained
from tests.training import settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return build_model("m2det-tiny", 1)


def test_detection_records_it_beside_the_detections(material, tmp_path, model):
    card = {"model": "m2det-tiny", "overrides": {}, "classes": ["square"], "category_ids": [1]}
    save_trained(tmp_path / "model.safetensors", model, card)
    params = settings()
    detect_split(params, material[0], tmp_path / "model.safetensors", tmp_path / "found.json", ALONE)
    speed = json.loads((tmp_path / NAME).read_text())
    assert speed["images"] == 14 and speed["processes"] == 1 and speed["batch_size"] == params.evaluate.batch_size
    assert speed["img_per_s"] == pytest.approx(14 / speed["seconds"], rel=0.2) and speed["device"] == "cpu"


@pytest.mark.parametrize(
    ("processes", "load", "words"),
    [(1, 0.5, ("1 process with", "minute before: 0.5;")), (8, None, ("8 processes, each with", "is not known."))],
)
def test_it_is_said_in_sentences(tmp_path, model, processes, load, words):
    evaluate = EvaluateParams.model_construct(batch_size=16)
    write_speed(tmp_path, model, 5000, 62.5, evaluate, CPU, processes, load)
    text = " ".join(describe_speed(json.loads((tmp_path / NAME).read_text())))
    assert text.startswith("80 images per second: 5,000 images in 62.5 s, from the packed images to boxes after")
    for word in (*words, f"float32, batches of 16, {processes}", device_name(CPU), torch.__version__):
        assert word in text
