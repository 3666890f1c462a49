"""Boxes lie on their objects, whichever way a camera was held and whatever size a label tool wrote."""

import cv2
import numpy as np
import pytest

from m2det.config import TrainParams
from m2det.data.dataset import PlainDataset, TrainingDataset
from m2det.data.inspection import ImageFaults
from m2det.data.packed.encoding import ImageEncoding
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.data.upright import exchange_sides
from tests.data.photos import HEIGHT, WIDTH, oriented_set, photo, write_set

STILL = TrainParams.model_construct(None, crop_probability=0.0, expand_probability=0.0, hflip=False)


def packed(path, orientation="ask", **options) -> PackedSplit:
    cache = path.parent / f"cache-{orientation}"
    cache.mkdir(exist_ok=True)
    split = read_split([(path, path.with_suffix(""))])
    entry = write_split(cache, "train", split, orientation=orientation, **options)
    finish_cache(cache, split.categories, {"train": entry})
    return PackedSplit(cache, "train")


def red_share(image: np.ndarray, box: np.ndarray) -> float:
    """Of the box that is coloured, not grey, which training's changes of colours keep."""
    x1, y1, x2, y2 = (box * image.shape[0]).round().astype(int)
    inside = image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].astype(int)
    return float((np.ptp(inside, axis=-1) > 40).mean())


def on_objects(split: PackedSplit) -> bool:
    for samples in (PlainDataset(split, 96), TrainingDataset(split, 96, 0, STILL)):
        for index in range(len(split)):
            image, boxes, _, _ = samples[0, index] if isinstance(samples, TrainingDataset) else samples[index]
            if min(red_share(image, box) for box in boxes) < 0.9:
                return False
    return True


@pytest.mark.parametrize("encoding", [ImageEncoding(), ImageEncoding("raw", 80), ImageEncoding("jpeg", 80, 95)])
@pytest.mark.parametrize("orientation", [6, 8])
def test_upright_sizes_say_that_boxes_are_of_the_image_as_shown(tmp_path, orientation, encoding):
    assert on_objects(packed(oriented_set(tmp_path / "a", orientation), encoding=encoding))


@pytest.mark.parametrize(
    ("orientation", "size"), [(3, (WIDTH, HEIGHT)), (3, (120, 120)), (6, (120, 120))], ids=["down", "square", "side"]
)
def test_where_the_size_cannot_tell_packing_asks_and_the_setting_decides(tmp_path, orientation, size):
    path = oriented_set(tmp_path / "a", orientation, width=size[0], height=size[1])
    with pytest.raises(ImageFaults, match=r"3 images carry an EXIF orientation, .*0\.jpg.* set data.orientation: exif"):
        packed(path)
    assert on_objects(packed(path, "exif"))
    assert not on_objects(packed(path, "stored"))


def test_boxes_drawn_on_the_shown_image_with_the_stored_size_are_right_once_that_is_said(tmp_path):
    """What some tools export; its boxes are cleaned by the size that the image has when shown."""
    path = oriented_set(tmp_path / "a", 6, stored_size=True)
    split = packed(path, "exif")
    assert split.sizes.tolist() == [[WIDTH, HEIGHT]] * 3 and on_objects(split)
    assert split.annotations(0).boxes.tolist() == [[10, 20, 69, 49]]


def test_boxes_that_exchanged_sides_drop_or_keep_are_counted_and_told(tmp_path, capsys):
    """Stored 120 x 160, shown 160 x 120: the first box lies beyond the shown image, the second beyond the stored."""
    names = ("a.jpg", "b.jpg")
    images = [
        {"id": i, "file_name": name, "width": HEIGHT, "height": WIDTH, "data": photo((10, 10, 50, 30), 6)}
        for i, name in enumerate(names)
    ]
    below, beside, over = [10, 125, 20, 20], [125, 10, 20, 20], [140, 10, 50, 20]
    boxes = [{"image_id": i, "category_id": 1, "bbox": box} for i, box in ((0, below), (0, beside), (1, over))]
    path = write_set(tmp_path / "a", images, boxes)
    split = read_split([(path, path.with_suffix(""))])
    assert (split.dropped["outside the image"], split.clipped) == (2, 0)
    cache = tmp_path / "cache"
    cache.mkdir()
    entry = write_split(cache, "train", split, orientation="exif")
    assert entry["boxes"] == 2 and entry["dropped"]["outside the image"] == 1 and entry["clipped"] == 1
    assert "1 of the boxes told as outside the image are kept by the size as shown of 2 im" in capsys.readouterr().out
    turned = exchange_sides(read_split([(path, path.with_suffix(""))]), [0])
    assert turned.dropped["outside the image"] == 2 and turned.clipped == 0
    boxes[1]["bbox"] = below
    path = write_set(tmp_path / "b", images[:1], boxes[:2])
    assert [note.text for note in exchange_sides(read_split([(path, path.with_suffix(""))]), [0]).notes] == [
        "2 more boxes are left out of training by the size as shown of 1 images whose annotations give the "
        "stored size: outside the image"
    ]


def test_boxes_beyond_the_stored_image_contradict_its_size(tmp_path):
    data = photo((100, 20, 50, 30), 6)
    image = {"id": 1, "file_name": "a.jpg", "width": HEIGHT, "height": WIDTH, "data": data}
    box = {"image_id": 1, "category_id": 1, "bbox": [100, 20, 50, 30], "area": 1500}
    path = write_set(tmp_path / "a", [image], [box])
    with pytest.raises(ImageFaults, match="carry an EXIF orientation"):
        packed(path)
    assert on_objects(packed(path, "exif"))


def test_stored_sizes_with_boxes_of_the_stored_pixels_keep_those(tmp_path, capsys):
    """Nothing is encoded again: two bytes of the record differ from the file's."""
    upright = photo((20, 30, 60, 40), 1)
    pixels = cv2.imdecode(np.frombuffer(upright, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    data = encoded[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + encoded[2:]
    image = {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT, "data": data}
    box = {"image_id": 1, "category_id": 1, "bbox": [20, 30, 60, 40], "area": 2400}
    split = packed(write_set(tmp_path / "a", [image], [box]))
    assert on_objects(split) and "1 of 1 images carry EXIF orientation 6" in capsys.readouterr().out
    record = split.record(0)
    assert len(record) == len(data) and sum(a != b for a, b in zip(record, data, strict=True)) == 1


def test_images_without_an_orientation_are_packed_as_they_are(tmp_path):
    path = oriented_set(tmp_path / "a", 1)
    split = packed(path)
    assert [split.record(i) for i in range(3)] == [(tmp_path / f"a/{i}.jpg").read_bytes() for i in range(3)]
