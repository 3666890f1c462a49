"""Which classes a data set has: several files' categories by name, and those that data.classes selects or merges."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path

from m2det.data.sources.records import Category, Note
from m2det.errors import InputError

Classes = Sequence[str | Mapping[str, Sequence[str]]]  # of data.classes: names, and {new name: [names]}
MAX_NAMED = 10  # classes in a sentence


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set.

    categories: sorted by id. index: the position among them by a name in the annotation files; a class that is left
    out has none.
    """

    categories: list[Category]
    index: Mapping[str, int]


def unite(files: Sequence[tuple[Path, list[Category]]]) -> tuple[list[Category], list[tuple[Path, Note]]]:
    """Return the categories of all files, sorted by id; names decide.

    A class has the id that the first file with its name gives, or a new one where another class has that id already.

    Args:
        files: paths and categories of the annotation files, sorted by id.

    Returns:
        The categories, and for each file that differs from the first a note that says by name how.
    """
    first_path, first = files[0]
    united = {category.name: category.id for category in first}
    taken = set(united.values())
    notes = []
    for path, categories in files[1:]:
        if categories == first:
            continue
        more = [category for category in categories if category.name not in united]
        free = free_ids({*taken, *(category.id for category in categories)})
        for category in more:
            united[category.name] = category.id if category.id not in taken else next(free)
            taken.add(united[category.name])
        notes.append((path, Note("other-classes", 1, _difference(path, categories, first_path, first))))
    return sorted((Category(i, name) for name, i in united.items()), key=lambda category: category.id), notes


def select(categories: list[Category], classes: Classes) -> ClassList:
    """Return the classes that data.classes asks for; all of them if it is empty.

    A renamed or merged class has the category id of the first name in its list.

    Raises:
        InputError: a name is unknown, or occurs twice.
    """
    if not classes:
        return ClassList(categories, {category.name: index for index, category in enumerate(categories)})
    ids = {category.name: category.id for category in categories}
    wanted: dict[str, Sequence[str]] = {}
    used: set[str] = set()
    for entry in classes:
        for new, olds in ({entry: [entry]} if isinstance(entry, str) else entry).items():
            if new in wanted:
                raise InputError(f"data.classes: {new!r} occurs twice; name each new class once")
            wanted[new] = olds
            for old in olds:
                if old not in ids:
                    raise InputError(f"data.classes: no class is called {old!r}{_near(old, ids)}")
                if old in used:
                    raise InputError(f"data.classes: {old!r} belongs to two classes; an object can have one")
                used.add(old)
    chosen = sorted((Category(ids[olds[0]], new) for new, olds in wanted.items()), key=lambda category: category.id)
    position = {category.name: index for index, category in enumerate(chosen)}
    return ClassList(chosen, {old: position[new] for new, olds in wanted.items() for old in olds})


def require_common(
    train: Sequence[tuple[Path, list[Category]]], val: Sequence[tuple[Path, list[Category]]], classes: ClassList
) -> None:
    """Raise InputError if other files have none of the training files' classes: nothing could be measured."""
    names, others = ({category.name for _, own in files for category in own} for files in (train, val))
    if not {classes.index.get(name) for name in names} & {classes.index.get(name) for name in others} - {None}:
        pairs = [f"{name!r}{_near(name, names)}" for name in sorted(others)[:MAX_NAMED]]
        raise InputError(
            f"{val[0][0]} has no class of {train[0][0]}: it has {', '.join(pairs)}; give both the same class names, or "
            "unite them by data.classes"
        )


def free_ids(taken: Collection[int]) -> Iterator[int]:
    """Yield ids that are not taken, counted on from the highest, or from 1 where that has no room."""
    highest = max(taken, default=0)
    return (i for i in count(highest + 1 if 0 <= highest < 2**62 else 1) if i not in taken)


def _difference(path: Path, own: list[Category], first_path: Path, first: list[Category]) -> str:
    mine, theirs = ({category.name: category.id for category in each} for each in (own, first))
    parts = []
    if missing := [f"{name} ({theirs[name]})" for name in theirs if name not in mine]:
        parts.append(f"it lacks {_list(missing)}")
    if more := [f"{name} ({mine[name]}){_near(name, theirs)}" for name in mine if name not in theirs]:
        parts.append(f"it has {_list(more)} besides")
    if other := [
        f"{name} ({mine[name]}, there {theirs[name]})" for name in mine if theirs.get(name, mine[name]) != mine[name]
    ]:
        parts.append(f"other ids have {_list(other)}")
    return f"{path} lists other categories than {first_path}: {'; '.join(parts)}; class names decide"


def _list(words: Sequence[str]) -> str:
    rest = len(words) - MAX_NAMED
    return ", ".join(words[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _near(name: str, names: Collection[str]) -> str:
    folded = {known.casefold(): known for known in names}
    near = get_close_matches(name.casefold(), folded, 3)
    if near:
        return f" (did you mean {' or '.join(repr(folded[word]) for word in near)}?)"
    return f"; there are {_list(sorted(names))}"
