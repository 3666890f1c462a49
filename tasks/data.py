"""Stage `data`: make the embedded data set, or find yours; in either case list its files."""

from __future__ import annotations

from m2det.data.coco2014 import ADVICE, SPLITS, derive_minival, download_coco2014
from m2det.data.manifest import write_manifest
from m2det.errors import InputError
from tasks.common import RAW, data_root, params

WHERE_YOURS_IS = "check data.root, data.train and data.val in params.yaml"


def data() -> None:
    """Write data/coco/manifest.json, last; for `digits` the data set itself before it."""
    source = params().data
    root = data_root()
    RAW.mkdir(parents=True, exist_ok=True)
    if source.source == "digits":
        from m2det.data.digits import make_digits

        make_digits(RAW)
    elif not root.is_dir():
        raise InputError(f"data.root: {root} is no folder; give the one with your annotations and images")
    if source.source == "coco":
        splits = {
            name: [(entry.annotations, entry.images) for entry in entries]
            for name, entries in (("train", source.train), ("val", source.val))
        }
        write_manifest(RAW / "manifest.json", root, splits, WHERE_YOURS_IS)
    else:
        if source.source == "coco2014-download":
            download_coco2014(root, source.mirror)
        if source.source != "digits":
            derive_minival(root)
        write_manifest(RAW / "manifest.json", root, SPLITS, ADVICE)
