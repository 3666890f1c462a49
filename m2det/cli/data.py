"""`m2det data`: check a data set before training, verify the packed cache, show training samples."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2det.cli.arguments import nonnegative_int
from m2det.errors import InputError
from m2det.text import printable

if TYPE_CHECKING:
    from m2det.config import DataParams, Params
    from m2det.data.sources.records import Split

CACHE, TEST = Path("data/cache"), Path("data/test")  # the latter of test images


def add_parser(subparsers: Any) -> None:
    data = subparsers.add_parser("data", help="check annotations, verify the packed cache, show training samples")
    parts = data.add_subparsers(title="parts", required=True, metavar="PART")
    check = parts.add_parser("check", help="describe a data set, its faults and doubts, which model fits; draw it")
    _add_source(check)
    check.add_argument("--out", type=Path, default=Path("annotated.png"), metavar="PNG", help="(default %(default)s)")
    check.add_argument("--all", action="store_true", help="read every image, not 2,000 of a split alone")
    check.add_argument("--json", action="store_true", help="print the findings as JSON (codes: docs/data.md)")
    check.add_argument("--strict", action="store_true", help="exit with 1 if there are warnings; 2 is for errors")
    check.set_defaults(run=_check)
    anchors = parts.add_parser("anchors", help="propose prior sizes for a data set, and say what they gain")
    _add_source(anchors)
    model = "m2detSIZE-BACKBONE or m2det-tiny (default: params.yaml's model, or m2det512-vgg16 without the file)"
    anchors.add_argument("--model", metavar="NAME", help=model)
    anchors.set_defaults(run=_anchors)
    verify = parts.add_parser("verify", help=f"read and decode every record of {CACHE}, and name the damaged ones")
    verify.set_defaults(run=_verify)
    show = parts.add_parser("show", help="draw samples as the network gets them")
    show.add_argument("--split", choices=("train", "val"), default="train", help="(default %(default)s)")
    epoch = "of train, from 0 (default %(default)s)"
    show.add_argument("--epoch", type=nonnegative_int, default=0, metavar="N", help=epoch)
    show.add_argument("--out", type=Path, default=Path("samples.png"), metavar="PNG", help="(default %(default)s)")
    show.set_defaults(run=_show)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", type=Path, metavar="JSON", help="in COCO format (default: params.yaml's data)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of its images")
    parser.add_argument("--outside", action="store_true", help="images may lie out of that folder (as data.outside)")


def _params(arguments: argparse.Namespace) -> Params:
    """Return ./params.yaml's, or the defaults where it is not needed and absent."""
    from m2det.config import check_params, load_params
    from m2det.config.schema import defaults
    from m2det.data.sources.manifest import RAW, with_known_orientation

    path = Path("params.yaml")
    if path.exists() or not arguments.annotations:
        params, manifest = load_params(path), RAW / "manifest.json"
        if arguments.annotations or not manifest.exists():
            return params
        return params.model_copy(update={"data": with_known_orientation(params.data, manifest)})
    values = defaults()
    values["data"]["source"] = "digits"  # the one that needs no data.root
    return check_params(values, "the defaults")


def _read(arguments: argparse.Namespace, data: DataParams) -> dict[str, Split]:
    from m2det.data.sources.coco import read_splits
    from m2det.data.sources.manifest import RAW, load_sources, may_lie_outside, roots_of

    pair, outside = (arguments.annotations, arguments.images), arguments.outside
    if any(pair) != all(pair):
        raise InputError("--annotations and --images belong together: give both, or neither for params.yaml's data")
    if all(pair):
        return read_splits({arguments.annotations.name: [pair]}, outside)
    outside = outside or may_lie_outside(data)
    sources = load_sources(RAW / "manifest.json", roots_of(data), outside)
    return read_splits(sources, outside, data.classes)


def _check(arguments: argparse.Namespace) -> int:
    from m2det.data.checks.report import check

    def read() -> tuple[Params, dict[str, Split]]:
        params = _params(arguments)
        return params, _read(arguments, params.data)

    report = check(read, arguments.all)
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print("\n".join([*report.tables, *map(str, report.findings)]))
    if report.splits:
        from m2det.viz.samples import draw_annotated

        picture = draw_annotated(next(iter(report.splits.values())), report.orientation)
        try:
            _write_picture(arguments.out, picture, quiet=arguments.json)
        except OSError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2  # 1 would say that there are warnings
    return report.exit_code(arguments.strict)


def _anchors(arguments: argparse.Namespace) -> None:
    from m2det.data.anchors import describe_proposal, propose_sizes
    from m2det.model.config import get_config

    params = _params(arguments)
    split = next(iter(_read(arguments, params.data).values()))
    if not any((~record.iscrowd).any() for record in split.records):
        raise InputError("no box is left to propose sizes by; `m2det data check` says why")
    overrides = {} if arguments.model else params.model.all_overrides
    config = get_config(arguments.model or params.model.name, **overrides)
    print(describe_proposal(propose_sizes(split, config), config))


def _verify(_: argparse.Namespace) -> None:
    from m2det.data.packed.verify import bad_records
    from m2det.distributed.lifetime import usable_cores

    for cache in (CACHE, *filter(Path.exists, [TEST])):
        count = 0
        for sentence in bad_records(cache, usable_cores()):
            print(sentence)
            count += 1
        if count:
            raise InputError(f"{cache} has {count} faults, named above with what to do")
        print(f"{cache}: every record is as it was packed")


def _show(arguments: argparse.Namespace) -> None:
    from m2det.config import load_params
    from m2det.data.packed.reader import PackedSplit
    from m2det.viz.samples import draw_packed

    split = PackedSplit(CACHE, arguments.split)
    _write_picture(arguments.out, draw_packed(split, load_params("params.yaml"), arguments.epoch))


def _write_picture(path: Path, picture: Any, quiet: bool = False) -> None:
    import cv2

    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    if not quiet:
        print(f"picture: {printable(str(path))}")
