"""m2det.load and its detections: the same boxes from every kind of input, and what users do with them."""

import io
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PilImage

import m2det
from m2det.config import EvaluateParams
from m2det.data.jpeg import decode_bgr
from m2det.data.packed.reader import PackedSplit
from m2det.errors import InputError
from m2det.evaluate.inference import coco_results_of_split
from m2det.model import prior_boxes
from m2det.model.model_file import load_trained
from tests.tiny_model import write_tiny_model

LOW = {"score": 0.02, "device": "cpu"}  # the weights are random


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def detector(weights):
    return m2det.load(weights, **LOW)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    return path


def same(a, b):
    return len(a) > 0 and np.array_equal(a.rows, b.rows) and a.size == b.size


def test_each_kind_of_picture_gives_the_same_boxes(detector, picture):
    bgr = cv2.imread(str(picture))
    expected = detector(str(picture))
    assert expected.size == (90, 60) and expected.path == picture
    assert same(expected, detector(picture))
    assert same(expected, detector(bgr))
    assert same(expected, detector(bgr[:, :, ::-1], channels="RGB"))
    assert same(expected, detector(PilImage.open(picture)))
    grey = bgr[:, :, 0]
    assert same(detector(grey), detector(np.dstack([grey] * 3)))


def test_a_list_gives_a_list_and_an_iterator_is_read_as_it_goes(detector, picture, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)  # as on a large machine
    alone = detector(picture)
    images = [decode_bgr(picture.read_bytes(), "")[:, : 90 - i].copy() for i in range(20)]
    found = detector(images, batch=3)
    assert isinstance(found, list) and [f.size[0] for f in found] == list(range(90, 70, -1))
    np.testing.assert_allclose(found[0].rows, alone.rows, atol=0.01)  # another batch, another order of sums
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield picture

    stream = detector(endless(), batch=2)
    assert len(next(stream)) == len(alone)
    assert len(taken) <= 3 * 2 + 1
    stream.close()
    assert detector([]) == []


def test_the_boxes_are_those_of_the_stage_evaluate(weights, material):
    """On images of a packed split, with the same settings, the entries of the results file are the same."""
    split = PackedSplit(material[0], "val")
    images = [decode_bgr(split.record(i), "") for i in range(len(split))]
    model, card = load_trained(weights)
    detector = m2det.Detector(model, card, "cpu", score=0.05, nms="linear", iou=0.3, batch=4)
    settings = EvaluateParams(
        split="val",
        batch_size=4,
        nms="linear",
        score_threshold=0.05,
        nms_iou=0.3,
        per_class=100,
        per_image=100,
        scorer="auto",
    )
    split.category_ids[:] = card["category_ids"]
    priors = prior_boxes(model.config)
    expected = coco_results_of_split(model, priors, split, 96, detector.device, settings, 0, range(len(split)))
    found = [d.to_coco(int(i)) for d, i in zip(detector(images), split.image_ids, strict=True)]
    assert sum(map(len, found)) > 50
    assert found == [[entry for entry in entries if entry["score"] >= 0.05] for entries in expected]


def test_options_of_a_call_and_of_a_detector(detector, weights, picture):
    found = detector(picture)
    assert (detector(picture, score=0.2).confidence >= 0.2).all()
    assert same(detector(picture, max_objects=3), found[:3])
    assert same(m2det.load(weights, device="cpu", score=0.02, max_objects=3)(picture), found[:3])
    one = detector.names[0]
    assert set(detector(picture, classes=[one]).data["class_name"]) == {one}
    soft = detector(picture, nms="gaussian", score=0.2, max_objects=5000)
    assert len(soft) and (soft.confidence >= 0.2).all(), "scores that soft-NMS lowers fall below the minimum"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"score": 2}, "score is 2, it must be a number from 0 to 1"),
        ({"nms": "soft"}, "one of hard, linear, gaussian"),
        ({"scores": 0.2}, "no option 'scores' of detection; the options are score, nms"),
        ({"classes": ["unicorn"]}, "class 'unicorn' is unknown to this model: it knows"),
        ({"score": "high"}, "score is 'high', it must be a number from 0 to 1"),
        ({"max_objects": 1.5}, "max_objects is 1.5, it must be a whole number"),
        ({"tiles": 64.0}, "tiles is 64.0, it must be a whole number"),
        ({"classes": "cat"}, "classes is 'cat', it must be a list of names"),
        ({"channels": "GBR"}, "BGR or RGB"),
        ({"tiles": 3}, "32 px or more"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(detector, picture, options, sentence):
    with pytest.raises(InputError, match=sentence):
        detector(picture, **options)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("missing.jpg", "missing.jpg"),
        ("https://host/a.jpg", "not downloaded"),
        (np.zeros((4, 4, 3)), "an array float64"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (7, "int"),
        (b"\xff\xd8", "bytes is no picture"),
        (io.BytesIO(b"\xff\xd8"), "BytesIO is no picture"),
        ({"a.jpg": 1}, "dict is no picture"),
        ("clip.MP4", "clip.MP4 is a video by its name"),
        (PilImage.fromarray(np.zeros((4, 4), np.float32)), "a PIL image of mode F is no picture"),
    ],
)
def test_what_is_no_picture_is_told(detector, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        detector(wrong)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pil_images_of_all_modes_are_what_pil_shows(detector, picture, mode):
    image = PilImage.open(picture).convert("P" if mode == "PA" else mode).convert(mode)
    assert same(detector(image), detector(np.asarray(image.convert("RGB")), channels="RGB"))


def test_16_bits_a_channel_are_seen_as_8(detector, picture, tmp_path):
    grey = cv2.imread(str(picture))[:, :, 0]
    cv2.imwrite(str(tmp_path / "16.png"), grey.astype(np.uint16) * 257)
    assert PilImage.open(tmp_path / "16.png").mode.startswith("I;16")
    for each in (tmp_path / "16.png", PilImage.open(tmp_path / "16.png")):
        assert same(detector(each), detector(grey))


def test_a_device_of_another_name_is_told(weights):
    with pytest.raises(InputError, match="device 'gpu' is unknown; take auto, cpu, cuda, npu"):
        m2det.load(weights, device="gpu")


def test_each_yields_an_error_in_its_place(detector, picture, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no picture")
    kinds = [type(found).__name__ for found in detector.each([picture, broken, "missing.png", picture], batch=2)]
    assert kinds == ["Detections", "InputError", "InputError", "Detections"]


def test_detections_are_filtered_iterated_and_pickled(detector, picture):
    found = detector(picture)
    assert found.xyxy.shape == (len(found), 4) and found.xyxy.dtype == np.float32
    assert (found.xyxy >= 0).all() and (found.xyxy <= [90, 60, 90, 60]).all()
    assert (np.diff(found.confidence) <= 0).all()
    few = found[found.confidence > np.median(found.confidence)]
    assert 0 < len(few) < len(found) and same(few, found[: len(few)])
    assert [len(one) for one in found][:3] == [1, 1, 1] and len(found[0]) == 1
    assert same(pickle.loads(pickle.dumps(found)), found)
    assert len(found[:0]) == 0 and str(found[:0]) == "nothing" and found[:0].to_coco(1) == []
    name = found.data["class_name"][0]
    assert (found.of_classes([name]).data["class_name"] == name).all()
    assert name in str(found)


def test_pictures_are_drawn_and_saved(detector, picture, tmp_path):
    found = detector(picture)
    drawn = found[:2].plot(scale=2)
    assert drawn.shape == (120, 180, 3)
    assert not np.array_equal(drawn, found[:0].plot(scale=2))
    found.save(tmp_path / "a.jpg")
    assert cv2.imread(str(tmp_path / "a.jpg")) is not None
    with pytest.raises(InputError, match=r"use .jpg"):
        found.save(tmp_path / "a.txt")


def test_a_strip_of_pixels_is_drawn_in_little_memory(detector):
    strip = np.zeros((1, 4000, 3), np.uint8)
    assert detector(strip, score=1.0).plot().size < 1e6


def test_a_list_of_files_keeps_no_pixels(detector, picture):
    kept = detector([picture])[0]
    assert kept._image is None and kept.plot().ndim == 3


def test_to_supervision(detector, picture):
    found = detector(picture)
    theirs = found.to_supervision()
    assert len(theirs) == len(found)
    np.testing.assert_array_equal(theirs.xyxy, found.xyxy)
    assert theirs.data["class_name"].tolist() == found.data["class_name"].tolist()
    assert len(theirs[theirs.confidence > 1]) == 0


def test_the_original_s_checkpoint_is_loaded_with_what_is_assumed(tmp_path, caplog):
    from m2det.model import build_model

    torch.manual_seed(0)
    original = build_model("m2det320-vgg16", 2, sfam=False)
    torch.save(original.state_dict(), tmp_path / "m2det320_vgg.pth")
    detector = m2det.load(tmp_path / "m2det320_vgg.pth", device="cpu")
    assert detector.size == 320 and detector.names == ("class 1", "class 2")
    assert "numbered" in caplog.text
