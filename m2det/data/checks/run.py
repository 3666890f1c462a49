"""All checks of a data set: those of annotations, and those that look at image files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from m2det.config import EvaluateParams
from m2det.data.checks.boxes import check_boxes
from m2det.data.checks.classes import check_classes
from m2det.data.checks.files import Files
from m2det.data.checks.images import check_faults, check_missing, check_orientation, check_range
from m2det.data.checks.table import BoxTable
from m2det.data.findings import Finding, from_notes
from m2det.data.inspection import Inspector
from m2det.data.sources.records import Split
from m2det.data.upright import EXCHANGED, Setting, exchange_sides

MAX_READ = 2000  # images of a split that are read


def check_annotations(splits: Mapping[str, Split], evaluate: EvaluateParams) -> Iterator[Finding]:
    """Yield what is found without a look at any image.

    Args:
        splits: by name; the first is trained on.
        evaluate: what evaluation keeps.
    """
    tables = {name: BoxTable.of(name, split) for name, split in splits.items()}
    for name, split in splits.items():
        yield from from_notes(split.notes, name)
    yield from check_classes(tables)
    for table in tables.values():
        yield from check_boxes(table, evaluate)


def check_images(
    name: str, split: Split, files: Files, setting: Setting, threads: int, most: int = MAX_READ
) -> tuple[Split, list[Finding]]:
    """Read a sample of a split's images and return what is found.

    Args:
        name: of the split.
        split: its images are read.
        files: which of them exist.
        setting: data.orientation.
        threads: that read.
        most: images that are read.

    Returns:
        The split, sides exchanged of the images that were found to be drawn so, and the findings.
    """
    findings = list(check_missing(files.missing, len(split.records), name))
    chosen = np.sort(np.random.default_rng(0).permutation(files.existing)[:most]).astype(int).tolist()
    inspector = Inspector(split, "header", setting)
    faults = files.faults + inspector.faults(chosen, threads)
    exchanged = {split.records[fault.index].image_id for fault in faults if fault.kind == EXCHANGED}
    findings += check_faults(faults, len(chosen), name)
    findings += check_orientation(inspector, len(chosen), name)
    bad = {fault.index for fault in faults}
    findings += check_range([split.records[i] for i in chosen if i not in bad], name)
    return exchange_sides(split, exchanged) if exchanged else split, findings
