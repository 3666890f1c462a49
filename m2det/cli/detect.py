"""`m2det detect`: detect objects in pictures, videos and cameras, draw them, and write them for other programs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from m2det.cli.arguments import DEVICES, fraction, nonnegative_int, positive_int
from m2det.errors import InputError
from m2det.files.whole import MAX_NAME_BYTES
from m2det.text import print_log, printable

if TYPE_CHECKING:
    from m2det.data.pictures import Source
    from m2det.detect.detector import Detector
    from m2det.detect.outputs import Output

STDOUT = "-"
RESULTS = "detections.json"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("detect", help="detect objects in pictures and videos: draw them, write them")
    names = (
        "pictures, videos (PyAV), folders, quoted patterns, camera:N, or - for a list of names on stdin; put -- or ./ "
        "before a name that begins with -"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE|DIR", help=names)
    weights = "a model.safetensors, a release's folder, or an original's .pth"
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE", help=weights)
    parser.add_argument("--out", type=Path, default=Path("detected"), metavar="DIR", help="(default %(default)s)")
    parser.add_argument("--recursive", action="store_true", help="also search folders in folders")
    what = parser.add_argument_group("what is detected")
    what.add_argument("--score", type=fraction, default=0.5, help="minimum score (default %(default)s)")
    what.add_argument("--classes", nargs="+", default=(), metavar="NAME", help="these classes alone")
    what.add_argument("--nms", choices=("hard", "linear", "gaussian"), default="hard", help="(default %(default)s)")
    what.add_argument("--iou", type=fraction, default=0.45, help="IoU threshold of NMS (default %(default)s)")
    most = "most objects of a picture (default %(default)s)"
    what.add_argument("--max", type=positive_int, default=100, metavar="N", help=most)
    tiles = "also look into tiles of SIDE px, for small objects in large photos"
    what.add_argument("--tiles", type=nonnegative_int, default=0, metavar="SIDE", help=tiles)
    what.add_argument("--overlap", type=fraction, default=0.25, help="of neighbouring tiles (default %(default)s)")
    writes = parser.add_argument_group("what is written")
    results = f"COCO results, to FILE.json, DIR/{RESULTS}, or - for stdout; put it last, or --json=FILE.json"
    writes.add_argument("--json", nargs="?", const="", type=_json_target, metavar="FILE.json|-", help=results)
    ids = "a COCO file: its image and category ids in the results, so that they can be scored with it"
    writes.add_argument("--annotations", type=Path, metavar="FILE", help=ids)
    writes.add_argument("--txt", action="store_true", help="YOLO labels with scores, DIR/labels/NAME.txt")
    writes.add_argument("--crops", action="store_true", help="each object's pixels, DIR/crops/CLASS/NAME_K.jpg")
    writes.add_argument("--no-pictures", action="store_true", help="no drawn pictures and videos")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--batch", type=positive_int, default=8, metavar="N", help="(default %(default)s)")
    speed.add_argument("--device", choices=DEVICES, default="auto")
    parser.set_defaults(run=_run)


def _json_target(text: str) -> str:
    # `--json photo.jpg` would otherwise write over the photo
    if text not in ("", STDOUT) and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a .json file: put --json last, or --json=FILE.json")
    return text


def _run(arguments: argparse.Namespace) -> None:
    from m2det.data.pictures import find_sources
    from m2det.detect.detector import load
    from m2det.detect.job import DetectionJob
    from m2det.detect.outputs import image_ids_in

    prose = sys.stderr if arguments.json == STDOUT else sys.stdout
    words = [word for name in arguments.images for word in (_listed() if name == STDOUT else [name])]
    sources = find_sources(words, arguments.recursive, arguments.out)
    if not arguments.no_pictures or arguments.txt or arguments.crops:
        _check_targets(sources, arguments.out)
    print_log(sys.stderr, logging.WARNING)
    names = ("score", "nms", "iou", "classes", "batch", "tiles", "overlap")
    options = {name: getattr(arguments, name) for name in names}
    detector = load(arguments.weights, arguments.device, max_objects=arguments.max, **options)
    ids = image_ids_in(arguments.annotations) if arguments.annotations else None
    with ExitStack() as stack:
        outputs = _outputs(arguments, detector)
        for output in outputs:
            stack.enter_context(closing(output))
        out = None if arguments.no_pictures else arguments.out
        job = DetectionJob(detector, outputs, out, ids, partial(_tell, prose))
        job.run(sources)
    job.end()


def _tell(stream: TextIO, text: str) -> None:
    try:
        print(printable(text), file=stream, flush=True)
    except BrokenPipeError:  # `| head`: the pictures are wanted all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _listed() -> list[str]:
    """Return the names on stdin, a line each; bytes that are not UTF-8 as in arguments."""
    return [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line]


def _outputs(arguments: argparse.Namespace, detector: Detector) -> list[Output]:
    from m2det.detect.outputs import CocoResults, Crops, YoloLabels

    outputs: list[Output] = []
    if arguments.json is not None:
        path = None if arguments.json == STDOUT else Path(arguments.json or arguments.out / RESULTS)
        outputs.append(CocoResults(path, _category_ids(detector, arguments.annotations)))
    if arguments.txt:
        outputs.append(YoloLabels(arguments.out))
    if arguments.crops:
        outputs.append(Crops(arguments.out))
    return outputs


def _category_ids(detector: Detector, annotations: Path | None) -> dict[int, int]:
    """Return the results' category ids by the model's: those that the annotation file has for the same names."""
    if annotations is None:
        return {i: i for i in detector.category_ids}
    from m2det.data.sources.coco_json import read_categories

    theirs = {category.name: category.id for category in read_categories(annotations)}
    missing = [name for name in detector.names if name not in theirs]
    if missing:
        raise InputError(f"{annotations} has no category {missing[0]!r}, which the model detects; give its own file")
    return {i: theirs[name] for i, name in zip(detector.category_ids, detector.names, strict=True)}


def _check_targets(sources: Sequence[Source], out: Path) -> None:
    """Raise InputError where a file would replace a picture or another one."""
    from m2det.detect.outputs import picture_path
    from m2det.detect.video import SUFFIX

    targets: dict[Path, Path] = {}
    for source in sources:
        path = source.path
        target = picture_path(out, source.name)
        if source.is_video:
            target = target.with_suffix(SUFFIX)
        if len(os.fsencode(target.name)) > MAX_NAME_BYTES:
            raise InputError(f"{path}: its name and .jpg are longer than {MAX_NAME_BYTES} bytes; give it a shorter one")
        if os.path.realpath(target) == os.path.realpath(path):
            raise InputError(f"{target} would overwrite the picture itself; choose another --out")
        if target in targets:
            raise InputError(f"{targets[target]} and {path} would both be drawn as {target}; give them one at a time")
        targets[target] = path
