"""Photographs that a camera has stored on their side, upside down or mirrored: seen by all as their EXIF says."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from m2det.data.jpeg import decode_bgr
from m2det.data.orientation import as_stored, exif_orientation, stored_size, turn_upright, upright_size

KINDS = ("JPEG", "PNG", "WEBP", "TIFF")
OPTIONS = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of headers that are changed on purpose


def picture() -> Image.Image:
    """60x40 px, smooth, and no two of its corners alike."""
    y, x = np.mgrid[:40, :60]
    return Image.fromarray(np.stack([4 * x, 6 * y, 120 + x - y], -1).astype(np.uint8))


def photo(kind: str, orientation: int) -> bytes:
    exif, file = Image.Exif(), BytesIO()
    exif[271] = "a camera"  # Make, before the orientation
    exif[274] = orientation
    picture().save(file, kind, exif=exif, **OPTIONS.get(kind, {}))
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_any_photo_is_decoded_upright(kind, orientation):
    data = photo(kind, orientation)
    assert exif_orientation(data) == orientation
    assert stored_size(data) == (60, 40)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))[..., ::-1]
    assert upright_size(data) == upright.shape[1::-1]
    assert np.abs(decode_bgr(data, "a").astype(int) - upright).max() <= 4
    half = cv2.resize(upright, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert np.abs(decode_bgr(data, "a", reduction=2).astype(int) - half).max() <= 6
    if kind != "TIFF":  # of which OpenCV and PIL both turn the pixels by themselves
        stored = np.asarray(picture())
        assert np.abs(turn_upright(stored, orientation)[..., ::-1].astype(int) - upright).max() <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_whose_stored_pixels_are_right_keeps_them_to_the_bit(kind):
    data = photo(kind, 6)
    plain = as_stored(data)
    assert len(plain) == len(data) and exif_orientation(plain) == 1
    np.testing.assert_array_equal(decode_bgr(plain, "a"), decode_bgr(photo(kind, 1), "a"))
    Image.open(BytesIO(plain)).load()  # checksums fit
    unmarked = cv2.imencode(".jpg", np.asarray(picture()))[1].tobytes()
    assert as_stored(unmarked) == unmarked and exif_orientation(unmarked) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_cut_or_changed_anywhere_gives_an_orientation_and_no_traceback(kind):
    data, rng = photo(kind, 6), np.random.default_rng(0)
    for length in range(min(len(data), 400)):
        assert exif_orientation(data[:length]) in (1, 6)
        as_stored(data[:length])
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(0, min(len(data), 300), 3):
            changed[place] = rng.integers(256)
        assert 1 <= exif_orientation(bytes(changed)) <= 8
        assert len(as_stored(bytes(changed))) == len(data)
        stored_size(bytes(changed))


def test_what_is_no_image_has_no_size():
    for data in (b"", b"no image", b"\xff\xd8", b"II*\0", b"RIFF\0\0\0\0WEBP"):
        assert stored_size(data) is None and upright_size(data) is None and exif_orientation(data) == 1
