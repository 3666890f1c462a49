"""Frames of a video or camera, and a video of drawn frames; by PyAV, which has FFmpeg in its wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from m2det.detect.detections import Detections, Image
from m2det.errors import InputError
from m2det.files.whole import replacing

SUFFIX = ".mp4"  # of what is written: H.264, which browsers and telephones play
NO_RATE = Fraction(25)  # of a container that does not say


class Video:
    """An open video or camera.

    Attributes:
        rate: Frames per second.
        count: Frames, by the container; 0 where it does not say.
        fault: A sentence on why frames have ended early; empty while there is none.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self._path, self._container, self._stream = path, container, stream
        self.rate = Fraction(stream.average_rate or NO_RATE)
        self.count, self.fault = max(0, int(stream.frames)), ""

    def frames(self) -> Iterator[Image]:
        """Yield frames as players show them, uint8 [H,W,3] BGR, up to where the file is damaged."""
        import av

        done = 0
        try:
            for frame in self._container.decode(self._stream):
                yield _upright(frame)
                done += 1
        except av.FFmpegError as error:
            self.fault = f"{self._path} is damaged after {done} frames: {error}"
        if done < self.count and not self.fault:
            self.fault = f"{self._path} is damaged: {done} of its {self.count} frames can be read"


def _upright(frame: Any) -> Image:
    """Return a frame's pixels as its display matrix asks for, by quarter turns and mirrored; telephones write one.

    FFmpeg's matrix (libavutil/display.h) moves the pixel at column p, row q to column a p + c q, row b p + d q.
    """
    from av.sidedata.sidedata import Type

    pixels: Image = frame.to_ndarray(format="bgr24")
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    (a, b), (c, d) = np.sign(np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2]).tolist()
    if a == d == 0:
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    elif b or c:  # by another angle, as no camera holds it: players do not agree
        return pixels
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@contextmanager
def open_video(path: Path, is_camera: bool) -> Iterator[Video]:
    """Open a video file or a camera's device.

    Raises:
        InputError: PyAV is not installed, or the file is no video.
    """
    av = _pyav(path)
    try:
        container = av.open(str(path), format="v4l2" if is_camera else None)
    except (av.FFmpegError, OSError) as error:
        reason = f"{error.strerror or error}".lower()
        raise InputError(f"{path} cannot be opened as a video: {reason}") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path} has no pictures: it is no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield Video(path, container, stream)


@contextmanager
def writing_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Write a video, H.264 in MP4; after Ctrl-C the frames until then.

    Raises:
        InputError: the disk takes no file here.
    """
    av, interrupt = _pyav(path), None
    with replacing(path) as temporary:
        writer = VideoWriter(av.open(str(temporary), "w", format="mp4"), rate)
        try:
            yield writer
        except KeyboardInterrupt as error:
            interrupt = error
        finally:
            writer.close()
    if interrupt:
        raise interrupt


class NoVideo:
    """The null object: draws no frame."""

    def write(self, found: Detections) -> None:
        """Append a drawn frame."""


NO_VIDEO = NoVideo()


class VideoWriter(NoVideo):
    """Draws and writes frames of one size."""

    def __init__(self, container: Any, rate: Fraction) -> None:
        self._container, self._rate = container, rate
        self._stream: Any = None

    def write(self, found: Detections) -> None:
        # H.264 takes even sides: an odd last row or column is cut
        import av

        image = found.plot(scale=1.0)
        height, width = (side - side % 2 for side in image.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(image[:height, :width].copy(), format="bgr24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder has kept, and the end of the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


def _pyav(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError(f"{path}: videos need PyAV: pip install 'm2det[video]' (or av)") from error
    return av
