"""Statistics of a data set, and whether a model's priors match its boxes: printed before a training."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import torch
from numpy.typing import NDArray

from m2det.boxes import cxcywh_to_xyxy, iou_xyxy
from m2det.data.image_checks import check_header
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.records import ImageRecord, Split
from m2det.errors import InputError
from m2det.model import prior_boxes
from m2det.text import printable

Boxes = NDArray[np.float32]

MODELS = ("m2det-tiny", "m2det320-vgg16", "m2det512-vgg16", "m2det704-vgg16", "m2det800-vgg16")
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # COCO's, px^2 of the image
MIN_IOU = 0.5  # from which training matches a prior with an object
TOLERANCE = 0.05  # the smallest model whose share is so close to the best is the one to take
MAX_SAMPLED = 2000  # boxes against priors: more change no digit that is printed; and images that are read


def describe_split(name: str, split: Split) -> str:
    """Return a text: images, boxes by class and size, what cleaning drops. Raises InputError as find_images does."""
    counts = np.array([len(record.boxes) for record in split.records])
    boxes, area = objects(split)
    labels = np.concatenate([record.labels[~record.iscrowd] for record in split.records])
    widths, heights = np.array([(record.width, record.height) for record in split.records]).T
    existing, missing = find_images(split)
    read, bad = read_sampled(existing)
    dropped = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items() if count) or "none"
    by_size = ", ".join(f"{_within(area, size).mean():.0%} {size}" for size in SIZES) if len(boxes) else "none"
    by_class = [(int((labels == i).sum()), printable(c.name)) for i, c in enumerate(split.categories, 1)]
    classes = ", ".join(f"{name} {count}" for count, name in sorted(by_class, key=lambda item: -item[0]))
    return f"""{printable(name)}: {len(counts)} images, {len(boxes)} boxes of {len(by_class)} classes
images     {_span(widths)} wide, {_span(heights)} px high; {(counts == 0).sum()} without a box
missing    {len(missing)}{"".join(f", the first is {printable(str(record.path))}" for record in missing[:1])}
damaged    {len(bad)} of {read} that were read{"".join(f"; {sentence}" for sentence in bad[:3])}
boxes      {np.median(counts):.0f} in the median image, {counts.max()} at most; {counts.sum() - len(boxes)} crowds
dropped    {dropped}; {split.clipped} reach over an edge and are clipped
by size    {by_size} (COCO's: small is below 32x32 px, large above 96x96 px)
{fill("by class   " + classes, 110, subsequent_indent=" " * 11)}
"""


def find_images(split: Split) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return the images whose files exist, and those without. Raises InputError for what `pack` would not open."""
    names: dict[ImageFolder, list[str]] = {}
    for record in split.records:
        names.setdefault(record.folder, []).append(record.file_name)
    sizes = {folder: folder.sizes(inside) for folder, inside in names.items()}
    existing = [record for record in split.records if record.file_name in sizes[record.folder]]
    return existing, [record for record in split.records if record.file_name not in sizes[record.folder]]


def read_sampled(records: Sequence[ImageRecord], seed: int = 0) -> tuple[int, list[str]]:
    """Return how many images were read, and a sentence for each that `pack` would refuse by its header."""
    bad = []
    for i in sorted(np.random.default_rng(seed).permutation(len(records))[:MAX_SAMPLED].tolist()):
        try:
            check_header(records[i].read(), str(records[i].path), records[i].width, records[i].height)
        except InputError as error:
            bad.append(str(error))
    return min(len(records), MAX_SAMPLED), bad


def describe_priors(split: Split, seed: int = 0) -> str:
    """Return a table: of each model, by size, the share of boxes that priors match, and how many; and which fits."""
    boxes, area = objects(split)
    chosen = np.random.default_rng(seed).permutation(len(boxes))[:MAX_SAMPLED]
    boxes, area = boxes[chosen], area[chosen]
    kinds = {size: _within(area, size) for size in SIZES if _within(area, size).any()} | {"all": area > 0}
    lines = [
        f"share of boxes that priors overlap by {MIN_IOU} or more, and by how many on average, of {len(boxes)} boxes;",
        f"the other boxes are each matched with their one best prior\n{'':16}{'priors':>8}"
        + "".join(f"{kind:>14}" for kind in kinds),
    ]
    shares = {}
    for name in MODELS:
        priors = prior_boxes(name)
        matches = count_matches(boxes, priors)
        cells = (f"{(counts > 0).mean():.1%} {counts.mean():5.1f}" for counts in (matches[k] for k in kinds.values()))
        lines.append(f"{name:<16}{len(priors):>8,}" + "".join(f"{cell:>14}" for cell in cells))
        shares[name] = (matches > 0).mean()
    fit = next(name for name in MODELS[1:] if shares[name] >= max(shares.values()) - TOLERANCE)
    lines.append(f"fits: {fit}, the smallest within {100 * TOLERANCE:.0f} points of the best")
    return "\n".join(lines)


def objects(split: Split) -> tuple[Boxes, Boxes]:
    """Return all boxes that training uses: xyxy in [0,1] of their image [N,4], areas px^2 [N]."""
    boxes = [r.boxes[~r.iscrowd] / np.array([r.width, r.height] * 2, np.float32) for r in split.records]
    return np.concatenate(boxes), np.concatenate([record.area[~record.iscrowd] for record in split.records])


def count_matches(boxes: Boxes, priors: torch.Tensor) -> NDArray[np.int64]:
    """Return [N], how many cxcywh priors [P,4] overlap each xyxy box [N,4], all in [0,1], by MIN_IOU or more."""
    corners = cxcywh_to_xyxy(priors)
    chunks = torch.from_numpy(boxes).split(100)  # 100 x 80,000 overlaps at once
    matches: NDArray[np.int64] = torch.cat([(iou_xyxy(chunk, corners) >= MIN_IOU).sum(1) for chunk in chunks]).numpy()
    return matches


def _within(area: Boxes, size: str) -> NDArray[np.bool_]:
    low, high = SIZES[size]
    return (area >= low) & (area < high)


def _span(values: NDArray[np.int64]) -> str:
    return " to ".join(str(value) for value in sorted({int(values.min()), int(values.max())}))
