"""Load a trained network, and detect objects in pictures with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from io import IOBase
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from m2det.data.jpeg import decode_bgr
from m2det.data.ordered_map import ordered_map
from m2det.data.pictures import VIDEO_SUFFIXES, require_no_address
from m2det.data.transforms import square_of_file, square_of_pixels
from m2det.detect.detections import Detections, Image, list_of_names
from m2det.detect.model_loading import load_model
from m2det.detect.tiles import Tile, merge_tiles, tiles_of
from m2det.device import choose_device, to_device
from m2det.errors import InputError
from m2det.evaluate.inference import candidates_of_images
from m2det.evaluate.postprocess import suppress
from m2det.files.regular_file import read_file
from m2det.model import M2Det, prior_boxes

if TYPE_CHECKING:
    import PIL.Image

    Picture = str | Path | NDArray[np.uint8] | PIL.Image.Image

NMS = ("hard", "linear", "gaussian")
MAX_BYTES = 512 << 20  # of pictures that are open at once, beside those that the network sees
COMPRESSION = 12  # of a JPEG, about
FILMS = VIDEO_SUFFIXES - {".gif"}  # whose first picture is taken


@dataclass(frozen=True)
class DetectionOptions:
    """What is detected, and how.

    Attributes:
        score: Minimum score of a detection, in [0,1].
        nms: NMS within each class: "hard" finds each object once; "linear" and "gaussian" (soft-NMS) keep
            near-duplicates with lower scores.
        iou: IoU threshold of NMS, in [0,1].
        max_objects: Maximum number of detections in an image, best first.
        classes: Names of the classes to detect; empty for all.
        batch: Images that the network sees at once.
        tiles: Side in pixels of square tiles, in which small objects of large photos are looked for, too; 0 for none.
        overlap: Share of a tile's side that neighbouring tiles have in common, in [0,0.9].
        channels: Order of an array's channels, "BGR" (OpenCV) or "RGB".
    """

    score: float = 0.5
    nms: str = "hard"
    iou: float = 0.45
    max_objects: int = 100
    classes: tuple[str, ...] = ()
    batch: int = 8
    tiles: int = 0
    overlap: float = 0.25
    channels: Literal["BGR", "RGB"] = "BGR"

    def __post_init__(self) -> None:
        for name, kind, low, high in (
            *(("score", Real, 0, 1), ("iou", Real, 0, 1), ("overlap", Real, 0, 0.9)),
            *(("max_objects", Integral, 1, 100_000), ("batch", Integral, 1, 100_000), ("tiles", Integral, 0, 100_000)),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or not low <= float(value) <= high:
                what = "a whole number" if kind is Integral else "a number"
                raise InputError(f"{name} is {value!r}, it must be {what} from {low} to {high}")
        if self.nms not in NMS:
            raise InputError(f"nms is {self.nms!r}, it must be one of {', '.join(NMS)}")
        if self.channels not in ("BGR", "RGB"):
            raise InputError(f"channels is {self.channels!r}, it must be BGR or RGB")
        if self.tiles and self.tiles < 32:
            raise InputError(f"tiles is {self.tiles}, it must be 32 px or more, or 0 for none")

    def changed(self, changes: dict[str, Any]) -> DetectionOptions:
        """Return the options with changes. Raises InputError for an unknown or invalid one."""
        if unknown := changes.keys() - {each.name for each in fields(self)}:
            names = ", ".join(each.name for each in fields(self))
            raise InputError(f"there is no option {sorted(unknown)[0]!r} of detection; the options are {names}")
        if "classes" in changes:
            changes = changes | {"classes": list_of_names(changes["classes"])}
        return replace(self, **changes)


@dataclass(frozen=True)
class _Opened:
    """A picture, and the parts of it as the network gets them."""

    image: Image
    path: Path | None
    tiles: list[Tile]
    whole: NDArray[np.uint8]  # [S,S,3] BGR

    def square(self, number: int) -> NDArray[np.uint8]:
        """Return a tile, uint8 [S,S,3] BGR; cut when its turn comes, since a large photo has hundreds."""
        return self.whole if number == 0 else square_of_pixels(self.image[self.tiles[number].slices], len(self.whole))


def load(weights: str | Path, device: str = "auto", **options: Any) -> Detector:
    """Load a detector from a model file, a folder of `m2det release`, or a checkpoint of the original (.pth).

    Args:
        weights: The file. Of a .pth the configuration is inferred, and what its file does not tell (size of the input,
            names of the classes) is assumed with a warning in the log.
        device: auto, cpu, cuda or npu.
        options: Defaults of each call, as DetectionOptions.

    Raises:
        InputError: The file is missing or no model, the device is absent, or an option is not valid.
    """
    return Detector(*load_model(Path(weights)), device, **options)


class Detector:
    """A trained network with the names of its classes.

    Attributes:
        names: Of the classes.
        category_ids: COCO's, one for each name.
        size: Side of the network's input, px.
        device: That computes.
        options: Defaults of each call.
    """

    def __init__(self, model: M2Det, card: dict[str, Any], device: str = "auto", **options: Any) -> None:
        self.device = choose_device(device)
        self.model = model.eval()
        to_device(self.model, self.device)
        self.names, self.category_ids = tuple(card["classes"]), tuple(card["category_ids"])
        self.size = model.config.size
        self._priors = prior_boxes(model.config).to(self.device)
        self.options = self._changed(DetectionOptions(), options)

    @overload
    def __call__(self, pictures: Picture, **options: Any) -> Detections: ...
    @overload
    def __call__(self, pictures: list[Any] | tuple[Any, ...], **options: Any) -> list[Detections]: ...
    @overload
    def __call__(self, pictures: Iterable[Any], **options: Any) -> Iterator[Detections]: ...
    def __call__(self, pictures: Any, **options: Any) -> Any:
        """Detect objects in pictures.

        Args:
            pictures: A picture, a list, or an iterator of pictures. A picture is a file, a PIL image, or an array uint8
                [H,W,3] or [H,W]. Files and PIL images are turned upright by their EXIF orientation.
            options: Other than this detector's, as DetectionOptions.

        Returns:
            Detections of a picture; of a list a list; of an iterator an iterator, which reads up to three batches
            ahead.

        Raises:
            InputError: A picture cannot be read, or an option is not valid.
        """
        chosen = self._changed(self.options, options)
        if isinstance(pictures, list | tuple):
            return [found.without_image() for found in self._or_raise(pictures, chosen)]
        if isinstance(pictures, str | Path | np.ndarray) or _is_pil(pictures):
            return next(self._or_raise([pictures], chosen))
        if not isinstance(pictures, Iterable) or isinstance(pictures, bytes | bytearray | IOBase | Mapping):
            raise _no_picture(type(pictures).__name__)
        return self._or_raise(pictures, chosen)

    def each(self, pictures: Iterable[Any], **options: Any) -> Iterator[Detections | InputError]:
        """Detect as a call does, and yield a picture's InputError in its place, instead of raising it."""
        return self._detect(pictures, self._changed(self.options, options))

    def _changed(self, options: DetectionOptions, changes: dict[str, Any]) -> DetectionOptions:
        chosen = options.changed(changes)
        for name in chosen.classes:
            if name not in self.names:
                raise InputError(f"class {name!r} is unknown to this model: it knows {', '.join(self.names)}")
        return chosen

    def _or_raise(self, pictures: Iterable[Any], options: DetectionOptions) -> Iterator[Detections]:
        for found in self._detect(pictures, options):
            if isinstance(found, InputError):
                raise found
            yield found

    def _detect(self, pictures: Iterable[Any], options: DetectionOptions) -> Iterator[Detections | InputError]:
        """Yield each picture's detections: threads open the next pictures and suppress boxes of the last ones."""
        threads = min(torch.get_num_threads(), options.batch)  # each opens a picture, however far ahead that is

        def open_or_error(picture: Any) -> _Opened | InputError:
            try:
                return self._open(picture, options)
            except InputError as error:
                return error

        def finish(pair: tuple[_Opened | InputError, list[NDArray[np.float32]]]) -> Detections | InputError:
            opened, candidates = pair
            return opened if isinstance(opened, InputError) else self._finish(opened, candidates, options)

        least = MAX_BYTES // options.batch  # so that a batch of small pictures is the most

        def cost(picture: Any) -> int:
            return max(least, _decoded_bytes(picture))

        def cost_opened(pair: tuple[_Opened | InputError, list[NDArray[np.float32]]]) -> int:
            opened, candidates = pair
            image = 0 if isinstance(opened, InputError) else opened.image.nbytes
            return max(least, image + sum(each.nbytes for each in candidates))

        opened = ordered_map(pictures, open_or_error, threads, cost, MAX_BYTES)
        yield from ordered_map(self._candidates(opened, options), finish, threads, cost_opened, MAX_BYTES)

    def _open(self, picture: Any, options: DetectionOptions) -> _Opened:
        image, path, data = _as_bgr(picture, options.channels)
        height, width = image.shape[:2]
        tiles = tiles_of((width, height), options.tiles, options.overlap)
        whole = square_of_file(data, str(path), image, self.size) if data else square_of_pixels(image, self.size)
        return _Opened(image, path, tiles, whole)

    def _candidates(
        self, opened: Iterator[_Opened | InputError], options: DetectionOptions
    ) -> Iterator[tuple[_Opened | InputError, list[NDArray[np.float32]]]]:
        """Yield each picture with the candidates of each of its tiles."""
        # NMS takes what scores more
        threshold = float(np.nextafter(np.float32(options.score), np.float32(-1)))
        for pictures in _groups(opened, options.batch):
            tiles = [(p, i) for p in pictures if isinstance(p, _Opened) for i in range(len(p.tiles))]
            found: list[NDArray[np.float32]] = []
            for start in range(0, len(tiles), options.batch):
                squares = np.stack([picture.square(i) for picture, i in tiles[start : start + options.batch]])
                images = torch.from_numpy(squares).permute(0, 3, 1, 2)
                found += candidates_of_images(self.model, self._priors, images, self.device, threshold)
            for picture in pictures:
                count = len(picture.tiles) if isinstance(picture, _Opened) else 0
                yield picture, found[:count]
                del found[:count]

    def _finish(self, opened: _Opened, candidates: list[NDArray[np.float32]], options: DetectionOptions) -> Detections:
        height, width = opened.image.shape[:2]
        merged = merge_tiles(opened.tiles, candidates, (width, height))
        if options.classes:
            labels = [self.names.index(name) + 1 for name in options.classes]
            merged = merged[np.isin(merged[:, 5], labels)]
        most = options.max_objects
        rows = suppress(merged, (width, height), options.nms, options.iou, most, most)
        rows = rows[rows[:, 4] >= options.score]  # soft-NMS lowers scores
        return Detections(rows, (width, height), self.names, self.category_ids, opened.path, opened.image)


def _as_bgr(picture: Any, channels: str) -> tuple[Image, Path | None, bytes]:
    """Return a picture as uint8 [H,W,3] BGR, its file, and the file's content."""
    if isinstance(picture, str | Path):
        require_no_address(str(picture))
        if Path(picture).suffix.lower() in FILMS:
            raise InputError(f"{picture} is a video by its name: give frames as arrays, or use `m2det detect`")
        data = read_file(Path(picture))
        return decode_bgr(data, str(picture)), Path(picture), data
    if _is_pil(picture):
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16"):  # which PIL would cut at 255
            picture = (np.asarray(upright) >> 8).astype(np.uint8)
        elif upright.mode in ("I", "F"):
            raise InputError(
                f"a PIL image of mode {upright.mode} is no picture: which numbers are black and white is not known; "
                "scale it to 0 to 255 and convert it to L"
            )
        else:
            return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[:, :, ::-1]), None, b""
    if not isinstance(picture, np.ndarray):
        raise _no_picture(type(picture).__name__)
    if picture.dtype != np.uint8 or 0 in picture.shape:
        raise _no_picture(f"an array {picture.dtype} {list(picture.shape)}")
    if picture.ndim == 2:
        return np.repeat(picture[:, :, None], 3, axis=2), None, b""
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"an array {list(picture.shape)} is no picture: give uint8 [H,W,3] or [H,W]")
    return np.ascontiguousarray(picture if channels == "BGR" else picture[:, :, ::-1]), None, b""


def _no_picture(kind: str) -> InputError:
    return InputError(f"{kind} is no picture: give a file's name, a PIL image, or an array uint8 [H,W,3] or [H,W]")


def _decoded_bytes(picture: Any) -> int:
    """Estimate the memory that a picture takes when it is decoded."""
    if isinstance(picture, np.ndarray):
        return picture.nbytes
    if _is_pil(picture):
        return int(3 * picture.width * picture.height)
    path = Path(picture) if isinstance(picture, str | Path) else Path()
    return COMPRESSION * path.stat().st_size if path.is_file() else 0


def _is_pil(picture: Any) -> bool:
    return type(picture).__module__.startswith("PIL.")


def _groups(opened: Iterator[_Opened | InputError], batch: int) -> Iterator[list[_Opened | InputError]]:
    """Yield pictures in groups of at least `batch` tiles, the last group perhaps fewer."""
    group: list[_Opened | InputError] = []
    count = 0
    for picture in opened:
        group.append(picture)
        count += len(picture.tiles) if isinstance(picture, _Opened) else 0
        if count >= batch:
            yield group
            group, count = [], 0
    if group:
        yield group
