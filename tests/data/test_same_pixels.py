"""One photograph, the same pixels for the network wherever it comes from: training, validation, detection, export."""

import json

import cv2
import numpy as np
import pytest
import torch

from m2det.cli.export import _read_images
from m2det.config import TrainParams
from m2det.data.dataset import PlainDataset, TrainingDataset
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.detect import detector
from tests.tiny_model import write_tiny_model

STILL = TrainParams.model_construct(None, crop_probability=0.0, expand_probability=0.0, hflip=False)


def fine_lines(width: int, height: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, ::3] = 255
    image[::5] = (40, 90, 200)
    return image


def packed(folder, width, height):
    cv2.imwrite(str(folder / "0.jpg"), fine_lines(width, height))
    image = {"id": 0, "file_name": "0.jpg", "width": width, "height": height}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "line"}]}
    (folder / "a.json").write_text(json.dumps(content))
    split = read_split([(folder / "a.json", folder)])
    finish_cache(folder, split.categories, {"train": write_split(folder, "train", split)})
    return PackedSplit(folder, "train")


def test_a_photo_gives_training_validation_detection_and_export_the_same_pixels(tmp_path, monkeypatch):
    split = packed(tmp_path, 2560, 1919)
    size = 96
    validated = PlainDataset(split, size)[0][0]
    np.testing.assert_array_equal(TrainingDataset(split, size, 0, STILL)[0, 0][0], validated)
    exported = _read_images([tmp_path / "0.jpg"], size)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(exported, validated)
    batches = []
    monkeypatch.setattr(
        detector, "candidates_of_images", lambda *args: batches.append(args[2]) or [np.zeros((0, 6), np.float32)]
    )
    found = detector.load(write_tiny_model(tmp_path), "cpu")
    found.size = size
    assert len(found(tmp_path / "0.jpg")) == 0
    np.testing.assert_array_equal(batches[0][0].permute(1, 2, 0).numpy(), validated)
    # each pixel of the photo counts: resized linearly at once, most would be passed over
    means = cv2.resize(decode_bgr(split.record(0), "a"), (size, size), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(validated - means).mean() < 12
    at_once = cv2.resize(decode_bgr(split.record(0), "a"), (size, size), interpolation=cv2.INTER_LINEAR)
    assert np.abs(at_once - means).mean() > 36


@pytest.mark.parametrize(
    ("width", "height", "size"), [(640, 480, 320), (640, 640, 320), (640, 427, 512), (160, 160, 96)]
)
def test_images_of_cocos_size_are_resized_at_once_as_the_originals_are(tmp_path, width, height, size):
    split = packed(tmp_path, width, height)
    whole = cv2.resize(decode_bgr(split.record(0), "a"), (size, size), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(PlainDataset(split, size)[0][0], whole)
    assert torch.equal(_read_images([tmp_path / "0.jpg"], size)[0].permute(1, 2, 0), torch.from_numpy(whole).float())
