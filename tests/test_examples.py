"""The programs in examples/ run as a user runs them."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[1]


def run_example(name: str, *arguments: Path) -> str:
    """Run examples/NAME and return its output."""
    command = [sys.executable, ROOT / "examples" / name, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_backbone_is_added() -> None:
    assert len((ROOT / "examples" / "add_a_backbone.py").read_text().splitlines()) < 40
    printed = run_example("add_a_backbone.py")
    assert "backbone maps (1, 512, 40, 40) and (1, 1024, 20, 20)" in printed
    assert "loc (1, 12810, 4), conf (1, 12810, 81), priors 12810" in printed


def test_a_picture_is_detected_on(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    lines = run_example("detect.py", write_tiny_model(tmp_path), picture).splitlines()
    assert lines
    assert all(line.split()[0] in "0123456789" and " at [" in line for line in lines)
