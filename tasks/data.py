"""Stage `data`: make the embedded data set, fetch COCO, or find yours; list the files in a manifest."""

from __future__ import annotations

from m2det.data.sources.coco2014 import ADVICE, SPLITS, derive_minival, download_coco2014
from m2det.data.sources.detect_format import find_layout
from m2det.data.sources.fault_list import faults_listed
from m2det.data.sources.image_times import NAME, write_times
from m2det.data.sources.made import tell_notes
from m2det.data.sources.manifest import RAW, may_lie_outside, roots_of, write_manifest
from m2det.data.sources.presence import WHERE_YOURS_IS, missing_files
from m2det.errors import InputError, explain_disk_errors
from m2det.text import printable
from tasks.common import BAD_IMAGES, LEFT_OUT, UNFINISHED, main_root, params


def data() -> None:
    """Write data/coco/manifest.json; before it the images of `digits`, and annotations that yours must become."""
    unfinished = main_root() / UNFINISHED
    with explain_disk_errors(unfinished), faults_listed(unfinished / BAD_IMAGES):
        _list_files()


def _list_files() -> None:
    source, skip, with_test = params().data, params().pack.on_bad_image == "skip", params().looks_for_test
    roots = roots_of(source, main_root())
    root, advice, upright = roots[1], WHERE_YOURS_IS, False
    with explain_disk_errors(RAW):
        RAW.mkdir(parents=True, exist_ok=True)
        for fault in missing_files(source, main_root(), with_test):
            raise InputError(fault)
        if source.source == "digits":
            from m2det.data.sources.digits import make_digits

            make_digits(RAW)
            splits = SPLITS
        elif source.source.startswith("coco2014"):
            if source.source == "coco2014-download":
                download_coco2014(root, source.mirror)
            derive_minival(root)
            splits, advice = SPLITS, ADVICE
        else:
            layout = find_layout(source, root, with_test)
            print(printable(f"{root} holds {layout.saw}"), flush=True)
            converted = layout.convert(RAW, source.val_share, skip)
            tell_notes(converted.notes, main_root() / UNFINISHED / LEFT_OUT)
            splits, upright = converted.pairs, converted.upright
            roots = (RAW if converted.made else root, root)
        test = [(entry.annotations, entry.images) for entry in source.test]
        write_manifest(RAW / "manifest.json", roots, splits, advice, may_lie_outside(source), skip, upright, test)
        if source.source != "digits":  # whose images are DVC's, with times of a checkout
            write_times(RAW / "manifest.json", roots[1], main_root() / RAW.parent / NAME)
