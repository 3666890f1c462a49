"""Stage `data`: make the embedded data set, or find yours; in either case list its files."""

from __future__ import annotations

from m2det.data.manifest import write_manifest
from m2det.errors import InputError
from tasks.common import RAW, data_root, params

# minival2014 is COCO's validation set of 2017, taken out of val2014; the rest of it joins the training set
COCO2014 = {
    "train": [
        ("annotations/instances_train2014.json", "images/train2014"),
        ("annotations/instances_valminusminival2014.json", "images/val2014"),
    ],
    "val": [("annotations/instances_minival2014.json", "images/val2014")],
}
WHERE_COCO2014_IS = (
    "get train2014.zip and val2014.zip (unpack them in the root's folder images) and "
    "annotations_trainval2014.zip (unpack it in the root) from https://cocodataset.org/#download; "
    "instances_minival2014.json is instances_val2014.json with only the images that instances_val2017.json "
    "has too (by id), instances_valminusminival2014.json is the rest of it"
)
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
        write_manifest(RAW / "manifest.json", root, COCO2014, WHERE_COCO2014_IS)
