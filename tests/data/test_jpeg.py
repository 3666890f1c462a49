"""Images are checked by their header or by decoding them, and what is wrong is named."""

import io
import zlib

import cv2
import numpy as np
import pytest

from m2det.data import jpeg as decoders
from m2det.data.image_checks import check_header, check_jpeg_is_whole, check_size
from m2det.data.jpeg import REDUCTIONS, decode_bgr
from m2det.data.orientation import jpeg_size
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


@pytest.mark.parametrize("data", [b"", b"no image", b"\0BGR", b"\0BGR\1\0\2\0xy", b"\0BGR" + bytes(9)])
def test_bytes_that_are_no_image_are_named(data):
    with pytest.raises(InputError, match="a cannot be decoded"):
        check_header(data, "a", 50, 30)


def test_a_truncated_jpeg_is_named():
    for check in (check_header, check_size):
        with pytest.raises(InputError, match=r"^a is truncated"):
            check(b"\xff\xd8\xff", "a", 50, 30)


def backend(name):
    try:
        return getattr(decoders, f"{name}_decoder")()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}: {error}")


def smooth(height=131, width=205) -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


KINDS = {
    "plain": (smooth(), ()),
    "progressive": (smooth(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "444": (smooth(), (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)),
    "grey": (smooth()[..., 0], ()),
    "one pixel": (smooth()[:1, :1], ()),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["simplejpeg", "turbojpeg"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_library_decodes_to_the_same_pixels(name, kind, reduction):
    picture, options = KINDS[kind]
    data = cv2.imencode(".jpg", picture, options)[1].tobytes()
    actual, expected = backend(name)(data, reduction), decoders.opencv_decoder(data, reduction)
    assert actual.shape == expected.shape == (*(-(-side // reduction) for side in picture.shape[:2]), 3)
    assert np.abs(actual.astype(int) - expected).max() <= 2


def test_real_jpegs_decode_alike(shared):
    for path in sorted((shared / "coco2014-mini/images/val2014").glob("*.jpg"))[:12]:
        data = path.read_bytes()
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(decode_bgr(data, path.name).astype(int) - expected).max() <= 2


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def cmyk(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(picture).convert("CMYK").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["simplejpeg", "turbojpeg"])
@pytest.mark.parametrize("kind", ["CMYK", "stray bytes", "PNG"])
def test_odd_images_are_as_opencv_has_them(kind, name, monkeypatch):
    decoder = backend(name)
    monkeypatch.setattr(decoders, "jpeg_decoder", lambda: decoder)
    picture = smooth()
    whole = cv2.imencode(".jpg", picture)[1].tobytes()
    second = 4 + int.from_bytes(whole[4:6], "big")
    data = {
        "CMYK": lambda: cmyk(picture),
        "stray bytes": lambda: whole[:second] + bytes(3) + whole[second:],
        "PNG": lambda: cv2.imencode(".png", picture)[1].tobytes(),
    }[kind]()
    for reduction in REDUCTIONS:
        assert decode_bgr(data, "x", reduction=reduction).shape == (-(-131 // reduction), -(-205 // reduction), 3)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(decode_bgr(data, "x"), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["simplejpeg", "turbojpeg"])
def test_a_jpeg_that_ends_early_is_never_decoded_by_a_strict_library(name, reduction):
    whole = cv2.imencode(".jpg", smooth())[1].tobytes()
    decoder = backend(name)
    for _ in range(2):  # a warning that is an error must be one the second time, too
        with pytest.raises(ValueError, match="Premature end"):
            decoder(whole[: len(whole) * 2 // 3], reduction)


def test_the_choice_is_logged_with_its_reason_and_falls_back(monkeypatch, caplog):
    caplog.set_level("INFO", "m2det")

    def missing():
        raise ImportError("No module named 'it'")

    def without_library():
        raise RuntimeError("Unable to locate turbojpeg library automatically. You may\nspecify")

    missing.__name__, without_library.__name__ = "simplejpeg_decoder", "turbojpeg_decoder"
    decoders.jpeg_decoder.cache_clear()
    decoders.jpeg_decoder()
    monkeypatch.setattr(decoders, "simplejpeg_decoder", missing)
    monkeypatch.setattr(decoders, "turbojpeg_decoder", without_library)
    decoders.jpeg_decoder.cache_clear()
    assert decode_bgr(encoded(".jpg"), "x").shape == (30, 50, 3)
    decoders.jpeg_decoder.cache_clear()
    first, second = caplog.messages
    assert first == "JPEG decoder: simplejpeg, the fastest"
    assert second.startswith("JPEG decoder: OpenCV, simplejpeg does not load (No module named 'it'); turbojpeg does")


@pytest.mark.parametrize("progressive", [0, 1])
def test_the_end_marker_is_searched_after_the_scan_only(progressive):
    """Not in a thumbnail, which has one; and what a camera puts behind it may look like anything."""
    data = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    data = with_segment(data, 0xE1, b"Exif\0\0" + encoded(".jpg"))
    scan = data.rfind(b"\xff\xda")
    for whole in (data, data + b"\xff\xda\xff\xd8 a film"):
        check_jpeg_is_whole(whole, "a")
        check_size(whole, "a", 50, 30)
    for end in (scan - 1, scan + 30, len(data) - 2):
        with pytest.raises(InputError, match=r"^a is truncated"):
            check_jpeg_is_whole(data[:end], "a")


@pytest.mark.parametrize("name", ["simplejpeg", "turbojpeg"])
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_jpeg_whose_data_are_lost_in_the_middle_is_named_by_decoding(damage, name, monkeypatch):
    decoder = backend(name)
    monkeypatch.setattr(decoders, "jpeg_decoder", lambda: decoder)
    data = cv2.imencode(".jpg", smooth())[1].tobytes()
    third = (len(data) - data.rfind(b"\xff\xda")) // 3
    kept = data[: -2 * third]
    damaged = kept + (b"\xff\xd9" if damage == "cut" else bytes(third) + data[-third:])
    check_jpeg_is_whole(damaged, "a")
    with pytest.raises(InputError, match=r"^a is damaged \(.*premature end.*\); replace it"):
        check_size(damaged, "a", 205, 131)


def test_a_png_chunk_longer_than_the_file_allocates_nothing(monkeypatch):
    """OpenCV would make room for it, 4 GB."""
    png = bytearray(encoded(".png"))
    decode_bgr(bytes(png) + b"what follows does not matter", "a")
    png[png.find(b"IDAT") - 4] = 0xF0
    monkeypatch.setattr(cv2, "imdecode", None)
    for data in (bytes(png), encoded(".png")[:-30]):
        with pytest.raises(InputError, match=r"^a cannot be decoded: it is damaged"):
            decode_bgr(data, "a")


def test_a_false_header_allocates_nothing():
    """40,000 x 40,000 px in a kilobyte, PNG or JPEG: named, neither read into memory nor a traceback."""
    png, jpeg = bytearray(encoded(".png")), bytearray(encoded(".jpg"))
    png[16:24] = (40000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(InputError, match="a cannot be decoded"):
        check_size(bytes(png), "a", 50, 30)
    frame = jpeg.find(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (40000).to_bytes(2, "big") * 2
    with pytest.raises(InputError, match="a is 40000x40000 px, its annotation says 50x30"):
        check_size(bytes(jpeg), "a", 50, 30)
