"""Categories that only group others: some exporters list their root among the classes."""

from __future__ import annotations

from collections.abc import Sequence

from m2det.data.sources.coco_json import CocoFile
from m2det.data.sources.records import Note
from m2det.text import printable


def root_categories(files: Sequence[CocoFile]) -> tuple[set[str], list[Note]]:
    """Return the names of categories without any box that are the supercategory of others, and a note on each."""
    children: dict[str, list[str]] = {}
    used: set[str] = set()
    for file in files:
        names = {category.id: category.name for category in file.categories}
        used |= {names[category_id] for category_id in {a.category_id for a in file.annotations}}
        for category in file.categories:
            if category.supercategory != category.name:
                children.setdefault(category.supercategory, []).append(category.name)
    listed = dict.fromkeys(category.name for file in files for category in file.categories)
    roots = [name for name in listed if name in children and name not in used]
    notes = []
    for name in roots:
        others = ", ".join(printable(child) for child in dict.fromkeys(children[name]))
        text = f'class "{printable(name)}" has no box: it is only the supercategory of {others[:200]}, and is left out'
        notes.append(Note("root-category", 1, text))
    return set(roots), notes
