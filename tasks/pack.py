"""Stage `pack`: images and annotations into one cache that training reads fast and DVC hashes fast."""

from __future__ import annotations

from m2det.data.coco import ImageRecord, read_split
from m2det.data.image import check_header, check_jpeg_is_whole, check_size
from m2det.data.manifest import RAW, load_sources
from m2det.data.storage import Storage
from m2det.data.store import ORIGINAL, finish_cache, write_split
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
    settings = params().pack
    check = _decodes if settings.verify == "decode" else _is_whole
    storage = {"train": Storage(settings.images, settings.side, settings.quality), "val": ORIGINAL}
    with writing(CACHE):
        CACHE.mkdir(parents=True, exist_ok=True)
        for name, split in splits.items():
            expected, number = storage[name].expected_bytes(split.records), len(split.records)
            print(
                f"{name}: {number} images, about {expected / 1e6:.0f} MB of disk as {storage[name].images}", flush=True
            )
        entries = {name: write_split(CACHE, name, split, check, storage[name]) for name, split in splits.items()}
        finish_cache(CACHE, categories, entries)
    print(f"{len(categories)} classes: {', '.join(category.name for category in categories)}")
    for name, entry in entries.items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in entry["dropped"].items()) or "none"
        print(
            f"{name}: {entry['images']} images, {entry['boxes']} boxes ({entry['clipped']} clipped, dropped: "
            f"{dropped}), {entry['crowds']} crowd regions; images checked by {settings.verify}"
        )


def _is_whole(data: bytes, record: ImageRecord) -> None:
    check_jpeg_is_whole(data, _name(record))
    check_header(data, _name(record), record.width, record.height)


def _decodes(data: bytes, record: ImageRecord) -> None:
    check_jpeg_is_whole(data, _name(record))
    check_size(data, _name(record), record.width, record.height)


def _name(record: ImageRecord) -> str:
    return f"image {record.image_id} ({record.path})"
