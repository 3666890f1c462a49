"""What `m2det data check` says of a data set, as text and for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from m2det.config import Params
from m2det.data.checks.files import find_images
from m2det.data.checks.run import MAX_READ, check_annotations, check_images
from m2det.data.checks.splits import check_splits
from m2det.data.findings import ERROR, WARNING, Finding, worst
from m2det.data.sources.records import Split
from m2det.data.statistics import describe_priors, describe_split, objects
from m2det.data.upright import Setting, orientation_of
from m2det.distributed.lifetime import usable_cores
from m2det.errors import InputError


@dataclass
class Report:
    """Tables and findings.

    splits: by name, empty where they cannot be read. tables: texts. orientation: data.orientation.
    """

    splits: dict[str, Split] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    orientation: Setting = "ask"

    def exit_code(self, strict: bool) -> int:
        """Return 2 if there are errors, 1 if there are warnings and they count, else 0."""
        return {ERROR: 2, WARNING: int(strict)}.get(worst(self.findings), 0)

    def as_dict(self) -> dict[str, object]:
        """Return the report for JSON."""
        splits = {
            name: {
                "images": len(split.records),
                "boxes": len(objects(split)[0]),
                "classes": [category.name for category in split.categories],
            }
            for name, split in self.splits.items()
        }
        return {"splits": splits, "findings": [finding.as_dict() for finding in self.findings]}


def check(read: Callable[[], tuple[Params, dict[str, Split]]], all_images: bool = False) -> Report:
    """Check a data set: its annotations, a sample of its images, and which model fits.

    Args:
        read: gives the parameters and the splits, of which the first is trained on; an InputError is a finding.
        all_images: read every image, not MAX_READ of a split alone.
    """
    report = Report()
    try:
        params, report.splits = read()
    except (InputError, OSError) as error:
        report.findings.append(Finding("unreadable", str(error), 1))
        return report
    report.orientation = orientation_of(params.data)
    sizes: dict[str, int] = {}
    for name, split in report.splits.items():
        files = find_images(split)
        sizes |= files.sizes
        most = len(split.records) if all_images else MAX_READ
        report.splits[name], found = check_images(name, split, files, report.orientation, usable_cores(), most)
        report.findings += found
    report.findings += [*check_annotations(report.splits, params.evaluate), *check_splits(report.splits, sizes)]
    if params.pack.on_bad_image == "skip":
        skipped = {"missing-images": "skipped-images", "bad-images": "skipped-images"}
        report.findings = [replace(each, code=skipped.get(each.code, each.code)) for each in report.findings]
    report.tables = [describe_split(name, split) for name, split in report.splits.items()]
    first = next(iter(report.splits.values()))
    if np.any([(~record.iscrowd).any() for record in first.records]):
        table, found = describe_priors(first)
        report.tables.append(table)
        report.findings += found
    return report
