"""`m2det data`: check a data set before training, verify the packed cache, show training samples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from m2det.cli.arguments import nonnegative_int
from m2det.errors import InputError
from m2det.text import printable

CACHE = Path("data/cache")


def add_parser(subparsers: Any) -> None:
    data = subparsers.add_parser("data", help="check annotations, verify the packed cache, show training samples")
    parts = data.add_subparsers(title="parts", required=True, metavar="PART")
    check = parts.add_parser("check", help="describe a data set, what is dropped, which model fits; draw a picture")
    check.add_argument("--annotations", type=Path, metavar="JSON", help="in COCO format (default: params.yaml's data)")
    check.add_argument("--images", type=Path, metavar="DIR", help="the folder of its images")
    check.add_argument("--outside", action="store_true", help="images may lie out of that folder (as data.outside)")
    check.add_argument("--out", type=Path, default=Path("annotated.png"), metavar="PNG", help="(default %(default)s)")
    check.set_defaults(run=_check)
    verify = parts.add_parser("verify", help=f"read and decode every record of {CACHE}, and name the damaged ones")
    verify.set_defaults(run=_verify)
    show = parts.add_parser("show", help="draw samples as the network gets them")
    show.add_argument("--split", choices=("train", "val"), default="train", help="(default %(default)s)")
    epoch = "of train, from 0 (default %(default)s)"
    show.add_argument("--epoch", type=nonnegative_int, default=0, metavar="N", help=epoch)
    show.add_argument("--out", type=Path, default=Path("samples.png"), metavar="PNG", help="(default %(default)s)")
    show.set_defaults(run=_show)


def _check(arguments: argparse.Namespace) -> None:
    from m2det.config import load_params
    from m2det.data.sources.coco import read_split
    from m2det.data.sources.manifest import RAW, load_sources, may_lie_outside, roots_of
    from m2det.data.statistics import describe_priors, describe_split
    from m2det.viz.samples import draw_annotated

    pair, outside = (arguments.annotations, arguments.images), arguments.outside
    if any(pair) != all(pair):
        raise InputError("--annotations and --images belong together: give both, or neither for params.yaml's data")
    if all(pair):
        sources = {arguments.annotations.name: [pair]}
    else:
        data = load_params("params.yaml").data
        outside = outside or may_lie_outside(data)
        sources = load_sources(RAW / "manifest.json", roots_of(data), outside)
    splits = {name: read_split(pairs, outside) for name, pairs in sources.items()}
    print("\n".join(describe_split(name, split) for name, split in splits.items()))
    first = next(iter(splits.values()))
    if any((~record.iscrowd).any() for record in first.records):
        print(describe_priors(first))
    _write_picture(arguments.out, draw_annotated(first))


def _verify(_: argparse.Namespace) -> None:
    from m2det.data.packed.verify import bad_records
    from m2det.distributed.lifetime import usable_cores

    count = 0
    for sentence in bad_records(CACHE, usable_cores()):
        print(sentence)
        count += 1
    if count:
        raise InputError(f"{CACHE} has {count} faults, named above with what to do")
    print(f"{CACHE}: every record is as it was packed")


def _show(arguments: argparse.Namespace) -> None:
    from m2det.config import load_params
    from m2det.data.packed.reader import PackedSplit
    from m2det.viz.samples import draw_packed

    split = PackedSplit(CACHE, arguments.split)
    _write_picture(arguments.out, draw_packed(split, load_params("params.yaml"), arguments.epoch))


def _write_picture(path: Path, picture: Any) -> None:
    import cv2

    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    print(f"picture: {printable(str(path))}")
