"""The flow `demo` draws detections and shows them on its page, and fails with the sentence of `m2det detect`."""

import base64
import re
from uuid import uuid4

import cv2
import numpy as np
import pytest
from prefect.logging import disable_run_logger

from flows import demo as module
from flows.demo import demo, show_drawn
from flows.pictures import MAX_BYTES, WIDTH
from tests.tiny_model import write_tiny_model


@pytest.fixture
def shown(monkeypatch):
    """The artifacts that a run makes: text, key, description."""
    artifacts = []
    monkeypatch.setattr(module, "create_markdown_artifact", lambda *artifact: artifacts.append(artifact))
    return artifacts


@pytest.mark.parametrize(("number", "rows", "width"), [(1, 1, 340), (40, 4, WIDTH)])
def test_the_first_pictures_are_shown_small(tmp_path, shown, number, rows, width):
    noise = np.random.default_rng(0).integers(0, 256, (960, 1280, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), noise)
    show_drawn([])
    show_drawn([tmp_path / "a.jpg"] * number)
    ((text, key, description),) = shown
    assert (key, description) == ("demo-pictures", f"detections on {number} pictures")
    data = base64.b64decode(re.search(r"\(data:image/jpeg;base64,(.*)\)", text)[1])
    height, wide = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert len(data) <= MAX_BYTES and wide <= width and abs(height / wide - (34 + rows * 352) / width) < 0.02


@pytest.mark.slow
def test_the_demo_draws_each_picture_of_a_folder_under_a_guard(tmp_path, monkeypatch, shown):
    guarded, run = [], uuid4()
    monkeypatch.setattr("flows.demo.start_guard", guarded.append)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(run))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-photos").mkdir()
    cv2.imwrite("-photos/a.png", np.zeros((60, 80, 3), np.uint8))
    with disable_run_logger():
        state = demo.fn("-photos", "no-model.safetensors")
        assert state.is_failed() and state.message.startswith("no-model.safetensors"), state.message
        state = demo.fn("-photos", str(write_tiny_model(tmp_path)))
    assert state.is_completed() and state.message == f"drawn into {tmp_path}/drawn"
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["a.jpg"] and guarded == [run, run]
    ((text, *_),) = shown
    assert f"`{tmp_path}/drawn`" in text
