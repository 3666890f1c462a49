"""The programs in examples/ run."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2det.model import config
from tests.tiny_model import write_tiny_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_backbone_is_added(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(config, "BACKBONES", dict(config.BACKBONES))  # to which the example adds
    path = EXAMPLES / "add_a_backbone.py"
    assert len(path.read_text().splitlines()) < 40
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert "backbone maps (1, 512, 40, 40) and (1, 1024, 20, 20)" in printed
    assert "loc (1, 12810, 4), conf (1, 12810, 81), priors 12810" in printed


def test_a_picture_is_detected_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    monkeypatch.setattr(sys, "argv", ["detect.py", str(write_tiny_model(tmp_path)), str(picture)])
    runpy.run_path(str(EXAMPLES / "detect.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.split()[0] in "0123456789" and " at [" in line for line in lines)
