"""Pictures in the text of artifacts: Prefect's pages show no files of this machine."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH, MAX_BYTES, QUALITY = 1000, 200_000, 80  # of a picture in the server's database, as JPEG


def inline_jpeg(picture: NDArray[np.uint8], name: str) -> str:
    """Return a picture, uint8 [H,W,3] BGR, as Markdown that needs no file; `small_jpeg` has made it small."""
    return f"![{name}](data:image/jpeg;base64,{base64.b64encode(small_jpeg(picture)).decode()})"


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return a picture that this project has written, uint8 [H,W,3] BGR."""
    import cv2

    picture = cv2.imread(str(path))
    assert picture is not None, path
    return np.asarray(picture, np.uint8)


def small_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 [H,W,3] BGR, as a JPEG of at most WIDTH pixels in width and MAX_BYTES."""
    import cv2

    width = min(WIDTH, picture.shape[1])
    while True:
        size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        data: bytes = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        if len(data) <= MAX_BYTES:
            return data
        width = width * 4 // 5
