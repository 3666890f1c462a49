"""The flow `demo` draws detections, and fails with the sentence of `m2det detect`."""

from uuid import uuid4

import cv2
import numpy as np
import pytest
from prefect.logging import disable_run_logger

from flows.demo import demo
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.slow


def test_the_demo_draws_each_picture_of_a_folder_under_a_guard(tmp_path, monkeypatch):
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
