"""Detection in many pictures and videos: what `m2det detect` does between its arguments and its exit code."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from m2det.data.pictures import Source
from m2det.detect.detections import Detections
from m2det.detect.detector import Detector
from m2det.detect.outputs import DrawnPictures, Output, file_name_text, picture_path
from m2det.detect.video import NO_VIDEO, SUFFIX, open_video, writing_video
from m2det.errors import InputError
from m2det.text import printable


class DetectionJob:
    """Detects in pictures and videos, writes what is found as it goes, and tells of it."""

    def __init__(
        self,
        detector: Detector,
        outputs: Sequence[Output],
        out: Path | None,
        image_ids: Mapping[str, int] | None,
        tell: Callable[[str], None],
    ) -> None:
        """Begin.

        Args:
            detector: With the options of all calls.
            outputs: Take the detections of each picture and frame.
            out: Folder for the drawn pictures and videos; None draws none.
            image_ids: By file name, for the outputs; pictures that are not in it are left out. None counts from 1.
            tell: Takes lines for people.
        """
        self._detector, self._outputs, self._out, self._ids, self._tell = detector, outputs, out, image_ids, tell
        self._count, self._objects, self._start = 0, Counter[str](), time.perf_counter()
        self._failed: list[str] = []
        self._last_id = 0
        self._names = Counter[Path]()  # of pictures, with folders below those that were given

    def run(self, sources: Sequence[Source]) -> None:
        """Detect in the pictures, then in each video.

        Raises:
            InputError: Two pictures have one name in the annotations.
        """
        if self._ids is not None:  # which are of pictures: a video's frames have none
            sources = [source for source in sources if self._has_id(source, self._ids)]
            _require_one_of_each(sources, self._ids)
        pictures = [source for source in sources if not source.is_video]
        self._names = Counter(map(_inside, pictures))
        self._detect_pictures(pictures)
        for source in sources:
            if source.is_video:
                self._detect_video(source)

    def end(self) -> None:
        """Say what was found. Raises InputError if a picture could not be read."""
        seconds = time.perf_counter() - self._start
        classes = ", ".join(f"{count} {name}" for name, count in self._objects.most_common())
        objects = f"{self._objects.total()} objects" + (f" ({classes})" if classes else "")
        self._tell(f"{self._count} images, {objects}, {self._count / seconds:.1f} img/s")
        if len(self._failed) == 1 and not self._count:
            raise InputError(self._failed[0])
        if self._failed:
            total = len(self._failed) + self._count
            raise InputError(f"{len(self._failed)} of {total} images could not be read, the first: {self._failed[0]}")

    def _detect_pictures(self, sources: Sequence[Source]) -> None:
        drawn = [DrawnPictures(self._out)] if self._out else []
        found_in = self._detector.each(_with_bar((source.path for source in sources), len(sources), "image"))
        for number, (source, found) in enumerate(zip(sources, found_in, strict=True), 1):
            self._last_id = number
            if isinstance(found, InputError):
                self._fail(str(found))
                continue
            inside = _inside(source)  # or as given, where folders beside each other have the name
            name = file_name_text(inside if self._names[inside] == 1 else source.path)
            image_id = number if self._ids is None else self._ids[_key(source, self._ids)]
            self._write(source.name, found, {"image_id": image_id, "file_name": name}, drawn)
            target = f" -> {picture_path(self._out, source.name)}" if self._out else ""
            self._tell(f"{source.path}: {len(found)} objects{target}")

    def _detect_video(self, source: Source) -> None:
        target = self._out / source.name.with_name(source.name.name + SUFFIX) if self._out else None
        with ExitStack() as stack:
            try:
                video = stack.enter_context(open_video(source.path, source.is_camera))
            except InputError as error:
                self._fail(str(error))
                return
            writer = stack.enter_context(writing_video(target, video.rate)) if target else NO_VIDEO
            frames = _with_bar(video.frames(), video.count, "frame")
            ahead = {"batch": 1} if source.is_camera else {}  # a frame is shown when the next one comes
            number = 0
            for number, found in enumerate(self._detector(frames, **ahead), 1):
                self._last_id += 1
                name = source.name.with_name(f"{source.name.name}_{number:06d}")
                file_name = file_name_text(_inside(source))
                self._write(name, found, {"image_id": self._last_id, "file_name": file_name, "frame": number}, [])
                writer.write(found)
            drawn = f" -> {target}" if target else ""
            self._tell(f"{source.path}: {number} frames{drawn}")
            if video.fault:
                self._fail(video.fault)

    def _fail(self, sentence: str) -> None:
        self._failed.append(sentence)
        print(f"skipped: {printable(sentence)}", file=sys.stderr)

    def _write(self, name: Path, found: Detections, fields: dict[str, Any], drawn: Sequence[Output]) -> None:
        for output in (*drawn, *self._outputs):
            output.write(name, found, fields)
        self._count += 1
        self._objects.update(printable(str(class_name)) for class_name in found.data["class_name"])

    def _has_id(self, source: Source, ids: Mapping[str, int]) -> bool:
        known = not source.is_video and _key(source, ids) in ids
        if not known:
            print(f"left out: {printable(str(source.path))} is not in the annotations", file=sys.stderr)
        return known


def _key(source: Source, ids: Mapping[str, int]) -> str:
    """Return the annotations' name of a picture: with folders where they have those."""
    inside = str(_inside(source))
    return inside if inside in ids else source.path.name


def _inside(source: Source) -> Path:
    """Return a picture's name with the folders below the one that the user gave."""
    return source.name.with_name(source.path.name)


def _require_one_of_each(sources: Sequence[Source], ids: Mapping[str, int]) -> None:
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(_key(source, ids), source)
        if other is not source:
            raise InputError(
                f"{other.path} and {source.path} are both {_key(source, ids)} in the annotations; give one of them"
            )


def _with_bar(items: Iterable[Any], total: int, unit: str) -> Iterator[Any]:
    return iter(tqdm(items, total=total or None, unit=unit, disable=not sys.stderr.isatty()))
