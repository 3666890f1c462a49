"""Splits by the names that people give them: train, valid, instances_val2017, my_test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from m2det.data.sources.records import Note
from m2det.errors import InputError

NAMES = {
    "train": {"train", "training", "trainval", "trainset"},
    "val": {"val", "valid", "validation", "minival", "dev", "valset"},
    "test": {"test", "testing", "testset"},
}
Item = TypeVar("Item")


def split_of(path: str) -> str:
    """Return the split that a path names, the last of its parts first: train, val, test, or none (empty)."""
    for part in reversed(path.split("/")):
        words = {*re.findall("[a-z]+", part.lower())}
        if "test" in words:
            words.discard("dev")  # COCO's test-dev
        for split, names in NAMES.items():
            if words & names:
                return split
    return ""


def choose_splits(
    found: Mapping[str, Sequence[Item]], where: str, with_test: bool = False
) -> tuple[dict[str, list[Item]], list[Note]]:
    """Return what is for training and, where given, for validation; a test set is validated on in want of another.

    Args:
        found: by train, val and test, as they are there.
        where: what was searched, for the message.
        with_test: return the test set, too.

    Raises:
        InputError: nothing is for training, or the test set is wanted and not there.
    """
    if not found.get("train"):
        others = " and ".join(name for name in ("val", "test") if found.get(name))
        only = f" has images for {others} only" if others else " has no images"
        raise InputError(f"{where}{only}; training needs some: call their folder or list train")
    notes = []
    val = found.get("val") or found.get("test")
    if not found.get("val") and val:
        notes.append(Note("test-validates", len(val), "no validation images are given: those called test are for it"))
    if with_test and not (found.get("val") and found.get("test")):
        used = "; the images called test are validated on, since no others are for that" if found.get("test") else ""
        raise InputError(
            f"evaluate.split is 'test', but {where} has no images for test{used}: call their folder or list test, or "
            "give them in data.test"
        )
    chosen = {"train": found["train"], "val": val or [], "test": found["test"] if with_test else []}
    return {split: [*items] for split, items in chosen.items() if items}, notes
