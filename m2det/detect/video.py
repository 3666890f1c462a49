"""Frames of a video or camera, and a video of drawn frames; by PyAV, which has FFmpeg in its wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from m2det.detect.detections import Image
from m2det.errors import InputError
from m2det.files.whole import replacing

SUFFIX = ".mp4"  # of what is written: H.264, which browsers and telephones play
NO_RATE = Fraction(25)  # of a container that does not say


class Video:
    """An open video or camera.

    Attributes:
        rate: Frames per second.
        count: Frames, by the container; 0 where it does not say.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self._path, self._container, self._stream = path, container, stream
        self.rate = Fraction(stream.average_rate or NO_RATE)
        self.count = int(stream.frames)

    def frames(self) -> Iterator[Image]:
        """Yield frames, uint8 [H,W,3] BGR. Raises InputError where the file is damaged."""
        import av

        try:
            for frame in self._container.decode(self._stream):
                yield frame.to_ndarray(format="bgr24")
        except av.FFmpegError as error:
            raise InputError(f"{self._path} is damaged: {error}; frames up to there are done") from error


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
        raise InputError(f"{path} cannot be opened as a video: {error}") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path} has no pictures: it is no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield Video(path, container, stream)


@contextmanager
def writing_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Write a video, H.264 in MP4; after Ctrl-C what was drawn until then.

    Raises:
        InputError: the disk takes no file here.
    """
    av = _pyav(path)
    with replacing(path) as temporary:
        container = av.open(str(temporary), "w", format="mp4")
        writer = VideoWriter(container, rate)
        try:
            yield writer
        finally:
            writer.close()


class VideoWriter:
    """Writes frames of one size."""

    def __init__(self, container: Any, rate: Fraction) -> None:
        self._container, self._rate = container, rate
        self._stream: Any = None

    def write(self, image: Image) -> None:
        """Append a frame, uint8 [H,W,3] BGR. H.264 takes even sides: an odd last row or column is cut."""
        import av

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
