"""Doubts about classes: without boxes, or in one split alone."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from m2det.data.checks.table import BoxTable
from m2det.data.findings import Finding
from m2det.data.sources.coco_types import TEST
from m2det.text import printable

LISTED = 10  # names in a sentence


def check_classes(tables: Mapping[str, BoxTable]) -> Iterator[Finding]:
    """Yield the doubts about the classes of splits, which share one list of them. The first split is trained on."""
    counts = {name: _counts(table) for name, table in tables.items()}
    first = next(iter(tables))
    if not counts[first].any():
        text = "no box is left to train on; check the annotations, or what cleaning dropped and why"
        yield Finding("no-box", text, 0, (), first)
        return
    yield from _similar(tables, counts)
    empty = [name for name, number in zip(tables[first].classes, counts[first], strict=True) if not number]
    for name, table in tables.items():
        if name == first:
            continue
        if not counts[name].any() and name != TEST:  # whose boxes nobody but a server may have
            text = f"{name} has no box: AP cannot be measured; give annotations with boxes, or split the training data"
            yield Finding("val-without-box", text, 0, (), name)
        only = [c for c, number in zip(table.classes, counts[name], strict=True) if number and c in empty]
        if only:
            text = f"{len(only)} classes have boxes in {name} and none in {first}: {_names(only)}; their AP will be 0"
            yield Finding("class-only-in-val", text, len(only), tuple(only), name)
    if empty:
        text = (
            f"{len(empty)} of {len(counts[first])} classes have no box in {first}: {_names(empty)}; leave them out of "
            "the categories if they are no objects, such as the supercategory of the others that some exporters list: "
            "the network gets a channel for each, and their AP is not defined (-1)"
        )
        yield Finding("class-without-box", text, len(empty), tuple(empty), first)


def _similar(tables: Mapping[str, BoxTable], counts: Mapping[str, NDArray[np.int64]]) -> Iterator[Finding]:
    """Yield the classes with boxes whose names are one name, written differently."""
    first = next(iter(tables))
    groups: dict[str, list[str]] = {}
    for name, number in zip(tables[first].classes, np.sum([*counts.values()], axis=0), strict=True):
        if number:
            plain = unicodedata.normalize("NFKC", name).casefold()
            groups.setdefault("".join(character for character in plain if character not in " _-\t"), []).append(name)
    similar = [names for names in groups.values() if len(names) > 1]
    if similar:
        pairs = "; ".join(_names(names) for names in similar[:LISTED])
        merged = json.dumps([{names[0]: names} for names in similar[:LISTED]], ensure_ascii=False)  # also YAML
        text = (
            f"{len(similar)} names of classes are written differently, so each counts as several classes: {pairs}; if "
            f"they are one, correct the annotations, or unite them by data.classes: {printable(merged)}"
        )
        yield Finding("similar-classes", text, len(similar), tuple(" / ".join(names) for names in similar), first)


def _counts(table: BoxTable) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.bincount(table.label[~table.crowd], minlength=len(table.classes) + 1)[1:]
    return counts


def _names(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f'"{printable(name)}"' for name in names[:LISTED]) + more
