"""Stage `pack`: images and annotations into one cache that training reads fast and DVC hashes fast."""

from __future__ import annotations

from m2det.data.coco import ImageRecord, read_split
from m2det.data.image import check_header, check_jpeg_is_whole, check_size
from m2det.data.manifest import RAW, load_sources
from m2det.data.store import finish_cache, write_split
from m2det.errors import InputError, writing
from tasks.common import CACHE, params, roots


def pack() -> None:
    """Write data/cache, its manifest last."""
    splits = {name: read_split(pairs) for name, pairs in load_sources(RAW / "manifest.json", roots()).items()}
    categories = splits["train"].categories
    if splits["val"].categories != categories:
        raise InputError("the validation annotations have other categories than the training annotations")
    if not any(len(record.boxes) for record in splits["train"].records):
        raise InputError("the training annotations have no usable box: there is nothing to learn from")
    check = _decodes if params().pack.verify == "decode" else _is_whole
    with writing(CACHE):
        CACHE.mkdir(parents=True, exist_ok=True)
        entries = {name: write_split(CACHE, name, split, check) for name, split in splits.items()}
        finish_cache(CACHE, categories, entries)
    print(f"{len(categories)} classes: {', '.join(category.name for category in categories)}")
    for name, entry in entries.items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in entry["dropped"].items()) or "none"
        print(
            f"{name}: {entry['images']} images, {entry['boxes']} boxes ({entry['clipped']} clipped, dropped: "
            f"{dropped}), {entry['crowds']} crowd regions; images checked by {params().pack.verify}"
        )


def _is_whole(data: bytes, record: ImageRecord) -> None:
    check_jpeg_is_whole(data, _name(record))
    check_header(data, _name(record), record.width, record.height)


def _decodes(data: bytes, record: ImageRecord) -> None:
    check_jpeg_is_whole(data, _name(record))
    check_size(data, _name(record), record.width, record.height)


def _name(record: ImageRecord) -> str:
    return f"image {record.image_id} ({record.path})"
