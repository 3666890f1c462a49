"""benchmarks/photos.py: which photographs are chosen, and all stages on them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.photos import PHOTOS, choose
from tests.conftest import ROOT


def test_the_first_images_without_a_crowd_are_chosen() -> None:
    images = [{"id": id} for id in range(40, 0, -1)]
    annotations = [{"image_id": id, "iscrowd": 0, "id": id} for id in range(40, 4, -1)]  # none of images 1 to 4
    annotations.append({"image_id": 6, "iscrowd": 1, "id": 100})
    chosen = choose({"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}], "info": {}})
    expected = [5, *range(7, 22)]
    assert len(expected) == PHOTOS
    assert sorted(image["id"] for image in chosen["images"]) == expected
    assert [annotation["id"] for annotation in chosen["annotations"]] == expected
    assert chosen["categories"] == [{"id": 1}, {"id": 2}]


@pytest.mark.long  # tests/pipeline/test_dvc.py takes photographs of COCO 2014 through the stages
def test_the_stages_run_on_photographs(tmp_path: Path, shared: Path) -> None:
    out = tmp_path / "out"
    words = [str(shared / "coco2014-mini"), "--out", str(out), "--epochs", "1"]
    subprocess.run([sys.executable, str(ROOT / "benchmarks/photos.py"), *words], cwd=ROOT, check=True)
    assert json.loads((out / "data/cache/manifest.json").read_text())["splits"]["val"]["images"] == PHOTOS
    assert "AP50" in json.loads((out / "results/metrics.json").read_text())
    assert {path.name for path in (out / "results/pictures").iterdir()} >= {"detections.png", "learning_curve.png"}
