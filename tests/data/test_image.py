"""Images are checked by their header or by decoding them, and what is wrong is named."""

import cv2
import numpy as np
import pytest

from m2det.data.image import check_header, jpeg_size
from m2det.errors import InputError


def encoded(suffix: str, *options: int) -> bytes:
    picture = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    return cv2.imencode(suffix, picture, options)[1].tobytes()


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_a_jpegs_header_tells_its_size(options):
    assert jpeg_size(encoded(".jpg", *options)) == (50, 30)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_the_annotated_size_passes_and_another_is_named(suffix):
    check_header(encoded(suffix), "a", 50, 30)
    with pytest.raises(InputError, match="a is 50x30 px, its annotation says 400x30"):
        check_header(encoded(suffix), "a", 400, 30)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff"])
def test_what_is_no_image_is_named(data):
    with pytest.raises(InputError, match="a cannot be decoded"):
        check_header(data, "a", 50, 30)
