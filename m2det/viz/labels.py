"""The boxes of a data set by class and by size, as CSV for DVC and as PNG."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from m2det.data.packed.reader import PackedSplit
from m2det.files.whole import write_whole
from m2det.text import page_safe
from m2det.viz.curves import drawable, new_figure, save_figure

MAX_NAME = 40  # characters drawn of a class's name: more leave no room for its bar
MAX_CLASSES = 100  # drawn; of more those with the most boxes: a picture of 1,000 classes is 19,000 px high


def write_labels(table: Path, picture: Path, splits: Sequence[PackedSplit], prior_sizes: Sequence[float]) -> None:
    """Count the boxes of each split by class and by size, without crowds.

    Args:
        table: CSV to write, a row per class with its boxes in each split.
        picture: PNG to write, the same as bars, of the first MAX_CLASSES by boxes, and the sizes of boxes and priors.
        splits: with the same classes.
        prior_sizes: fractions of the image's side.
    """
    classes, counts, sides = splits[0].classes, [], []
    for split in splits:
        objects = [split.annotations(i) for i in range(len(split))]
        labels = np.concatenate([o.labels[~o.iscrowd] for o in objects])
        extents = [
            (o.boxes[:, 2:] - o.boxes[:, :2] + 1)[~o.iscrowd] / wh for o, wh in zip(objects, split.sizes, strict=True)
        ]
        sides.append(np.sqrt(np.concatenate(extents).prod(1)))
        counts.append(np.bincount(labels, minlength=len(classes) + 1)[1:])
    drawn = np.sort(np.argsort(-np.sum(counts, 0), kind="stable")[:MAX_CLASSES])
    figure, (left, right) = new_figure((10, max(4.5, 0.17 * len(drawn))), 2)
    for k, (split, count, lengths) in enumerate(zip(splits, counts, sides, strict=True)):
        rows = np.arange(len(drawn)) + 0.4 * k - 0.2
        left.barh(rows, count[drawn], 0.4, label=f"{split.name}: {count.sum()} boxes")
        right.hist(lengths, np.linspace(0, 1, 41), weights=np.full(len(lengths), 1 / max(1, len(lengths))), alpha=0.5)
    title = "Boxes by class" if len(drawn) == len(classes) else f"Boxes of {len(drawn)} of {len(classes)} classes"
    left.set(title=title, xlabel="boxes", ylim=(len(drawn) - 0.4, -0.6))
    names = [drawable(classes[label])[:MAX_NAME] for label in drawn]
    left.set_yticks(range(len(names)), names, parse_math=False)  # "$" is a character
    figure.legend(loc="outside lower center", ncols=2)
    for size in prior_sizes:
        right.axvline(size, color="black", linestyle=":", linewidth=1)
    right.set(title="Boxes by size", xlabel="side over the image's side (dotted: priors)", xlim=(0, 1.08))
    right.set_ylabel("share of the boxes")
    save_figure(figure, picture)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *(split.name for split in splits)])
    writer.writerows(zip(map(page_safe, classes), *counts, strict=True))  # `dvc plots` makes a page of it
    write_whole(table, text.getvalue())
