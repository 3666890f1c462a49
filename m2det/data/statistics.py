"""Statistics of a data set, and whether a model's priors match its boxes: printed before a training."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import torch
from numpy.typing import NDArray

from m2det.boxes import cxcywh_to_xyxy, iou_xyxy
from m2det.data.findings import Finding
from m2det.data.sources.records import Split
from m2det.model import prior_boxes
from m2det.model.config import get_config
from m2det.text import printable

Boxes = NDArray[np.float32]

MODELS = ("m2det-tiny", "m2det320-vgg16", "m2det512-vgg16", "m2det704-vgg16", "m2det800-vgg16")
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # COCO's, px^2 of the image
MIN_IOU = 0.5  # from which training matches a prior with an object
MIN_SHARE = 0.3  # of boxes; where no model matches so many, none fits
TOLERANCE = 0.05  # the smallest model whose share is so close to the best is the one to take
# boxes and priors that are compared at once: below 32,768 pairs PyTorch starts no threads, whose memory stays with them
CHUNK = (16, 1536)
ROUNDING = 1.01  # of areas
MAX_SAMPLED = 2000  # boxes against priors: more change no digit that is printed


def describe_split(name: str, split: Split) -> str:
    """Return a text: images, boxes by class and size, what cleaning drops."""
    counts = np.array([len(record.boxes) for record in split.records])
    boxes, area = objects(split)
    labels = np.concatenate([record.labels[~record.iscrowd] for record in split.records])
    widths, heights = np.array([(record.width, record.height) for record in split.records]).T
    dropped = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items() if count) or "none"
    by_size = ", ".join(f"{_within(area, size).mean():.0%} {size}" for size in SIZES) if len(boxes) else "none"
    by_class = [(int((labels == i).sum()), printable(c.name)) for i, c in enumerate(split.categories, 1)]
    classes = ", ".join(f"{name} {count}" for count, name in sorted(by_class, key=lambda item: -item[0]))
    return f"""{printable(name)}: {len(counts)} images, {len(boxes)} boxes of {len(by_class)} classes
images     {_span(widths)} wide, {_span(heights)} px high; {(counts == 0).sum()} without a box
boxes      {np.median(counts):.0f} in the median image, {counts.max()} at most; {counts.sum() - len(boxes)} crowds
dropped    {dropped}; {split.clipped} reach over an edge and are clipped
by size    {by_size} (COCO's: small is below 32x32 px, large above 96x96 px)
{fill("by class   " + classes, 110, subsequent_indent=" " * 11)}
"""


def describe_priors(split: Split, seed: int = 0) -> tuple[str, list[Finding]]:
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
    best = max(shares.values())
    if best < MIN_SHARE:
        return "\n".join(lines), [_none_fits(boxes, best)]
    fit = next(name for name in MODELS[1:] if shares[name] >= best - TOLERANCE)
    lines.append(f"fits: {fit}, the smallest within {100 * TOLERANCE:.0f} points of the best")
    return "\n".join(lines), []


def _none_fits(boxes: Boxes, best: float) -> Finding:
    """Return why no model fits: boxes of the median size against the largest input's cells, and what to do."""
    size = get_config(MODELS[-1]).size
    width, height = np.median(boxes[:, 2:] - boxes[:, :2], axis=0) * size
    cell = get_config(MODELS[-1]).steps[0]
    smallest = min(get_config(MODELS[-1]).prior_sizes) * size
    small = max(width, height) < smallest
    remedy = (
        "cut the images into tiles, train on them and detect in tiles; a larger input (model.overrides: size) helps "
        "where memory allows"
        if small
        else "`m2det data anchors` proposes sizes and says what they gain"
    )
    text = (
        f"no model here fits: the best matches {best:.1%} of the boxes. The median box has {width:.0f}x{height:.0f} px "
        f"in the largest input ({size} px), the smallest prior {smallest:.0f} px, a cell {cell} px; {remedy}"
    )
    return Finding("no-model-fits", text, len(boxes))


def objects(split: Split) -> tuple[Boxes, Boxes]:
    """Return all boxes that training uses: xyxy in [0,1] of their image [N,4], areas px^2 [N]."""
    boxes = [r.boxes[~r.iscrowd] / np.array([r.width, r.height] * 2, np.float32) for r in split.records]
    return np.concatenate(boxes), np.concatenate([record.area[~record.iscrowd] for record in split.records])


def count_matches(boxes: Boxes, priors: torch.Tensor) -> NDArray[np.int64]:
    """Return [N], how many cxcywh priors [P,4] overlap each xyxy box [N,4], all in [0,1], by MIN_IOU or more.

    Areas of such pairs differ by a factor of 1 / MIN_IOU at most, so the others are not compared.
    """
    prior_areas, order = priors[:, 2:].prod(1).sort()
    corners = cxcywh_to_xyxy(priors[order])
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    matches = np.zeros(len(boxes), np.int64)
    by_area = np.argsort(box_areas)
    for chunk in (by_area[start : start + CHUNK[0]] for start in range(0, len(boxes), CHUNK[0])):
        limits = box_areas[chunk[[0, -1]]] * np.array([MIN_IOU / ROUNDING, ROUNDING / MIN_IOU], np.float32)
        low, high = np.searchsorted(prior_areas.numpy(), limits)
        own = torch.from_numpy(boxes[chunk])
        for part in corners[low:high].split(CHUNK[1]):
            matches[chunk] += (iou_xyxy(own, part) >= MIN_IOU).sum(1).numpy()
    return matches


def _within(area: Boxes, size: str) -> NDArray[np.bool_]:
    low, high = SIZES[size]
    return (area >= low) & (area < high)


def _span(values: NDArray[np.int64]) -> str:
    return " to ".join(str(value) for value in sorted({int(values.min()), int(values.max())}))
