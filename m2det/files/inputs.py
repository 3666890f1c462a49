"""The inputs of a result: recorded when a stage begins, compared before its result counts.

A training takes days, and DVC reads settings and files when it ends: an edit in between would be recorded as what the
model was made from.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2det.errors import InputError
from m2det.files.whole import write_whole
from m2det.files.yaml_file import read_yaml

log = logging.getLogger(__name__)

FOLDER = "inputs"  # in a run directory: copies of the inputs
NAME, VERSION = "inputs.json", 2  # in that folder: the record
ABSENT = "absent"  # of a setting that one of two params.yaml lacks
LARGE = 1 << 30  # bytes; larger files are not hashed at the start
# files that Python, editors and NFS leave beside sources; .dvcignore lists the same
IGNORED = ("__pycache__", "*.so", "*~", ".*.sw?", "4913", ".DS_Store", ".nfs*")
Stat = tuple[int, int, int]  # inode, bytes, time of the last change in ns


@dataclass(frozen=True)
class Change:
    """One difference in words, and the file or the dependency that has it."""

    text: str
    path: str


@dataclass
class Data:
    """A file or folder that a stage made.

    Attributes:
        files: stats and md5 of each file in it; md5 "" for a large one.
        md5: of the whole, as `content_md5` computes it; "" if unknown.
        restore: the command that brings it back.
    """

    files: dict[str, tuple[Stat, str]]
    md5: str
    restore: str


@dataclass
class Inputs:
    """The inputs of a result; `Inputs()` has none, and so never changes.

    Attributes:
        params: the file of settings.
        keys: the settings and sections that count.
        settings: their values by dotted key.
        sources: the project's files and folders.
        md5: of each file in `sources`.
        data: files and folders that other stages made, by path.
    """

    params: str = "params.yaml"
    keys: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    md5: dict[str, str] = field(default_factory=dict)
    data: dict[str, Data] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._contents: dict[str, bytes] = {}  # of params and sources, while this process lives
        self._reported: list[Change] = []

    @classmethod
    def record(
        cls, params: str, keys: Sequence[str], sources: Sequence[str], data: Mapping[str, tuple[str, str]]
    ) -> Inputs:
        """Read all inputs now, paths relative to the working directory.

        Args:
            params, keys, sources: as the attributes.
            data: path -> (md5 of the whole or "", command that brings it back).

        Raises:
            InputError: the params file is missing or no YAML.
        """
        contents = dict(_read(sources))
        written = _bytes(params)
        settings = select(read_yaml(Path(params)), keys)
        made = {
            path: Data({p: (stat, _small_md5(p, stat)) for p, stat in _stats(path).items()}, md5, restore)
            for path, (md5, restore) in data.items()
        }
        inputs = cls(params, list(keys), settings, list(sources), {p: _md5(c) for p, c in contents.items()}, made)
        inputs._contents = {params: written, **contents}
        return inputs

    def keep(self, folder: Path) -> Path:
        """Replace the folder by the record and copies of params and sources, as recorded; return the copy of params."""
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in self._contents.items():
            write_whole(folder / path, content)
        record = {
            **{name: getattr(self, name) for name in ("params", "keys", "settings", "sources", "md5")},
            "data": {path: vars(data) for path, data in self.data.items()},
        }
        write_whole(folder / NAME, json.dumps({"version": VERSION, **record}, default=str))
        return folder / self.params

    @classmethod
    def load(cls, folder: Path) -> Inputs:
        """Return what `keep` wrote to the folder; no inputs if it wrote none, or in another version's form."""
        record = json.loads((folder / NAME).read_text(encoding="utf-8")) if (folder / NAME).exists() else {}
        if record.pop("version", 0) != VERSION:
            return cls()
        for path, data in record["data"].items():
            files = {name: (tuple(stat), md5) for name, (stat, md5) in data["files"].items()}
            record["data"][path] = Data(files, data["md5"], data["restore"])
        return cls(**record)

    def changes(self, thorough: bool = True) -> list[Change]:
        """Return how the inputs differ from the record; a file that was only touched does not.

        Args:
            thorough: hash large files whose stats changed, which takes minutes; otherwise they count as the same.
        """
        return [*self._changed_settings(), *self.changed_sources(), *self._changed_data(thorough)]

    def refuse_changes(self) -> None:
        """Raise InputError if this process may have read other inputs than the recorded ones.

        A process that has loaded the record reads the copy of params, so settings count only in the one that made it:
        there the whole file does, for the copy must hold what this process has read, also in other sections.
        """
        changes = [*self.changed_sources(), *self._changed_data(thorough=False)]
        if self._contents and _bytes(self.params) != self._contents[self.params]:
            changes = [*(list(self._changed_settings()) or [Change(f"{self.params} edited", self.params)]), *changes]
        if changes:
            raise InputError(
                f"inputs changed while this started: {'; '.join(change.text for change in changes)}; give the same "
                "command again"
            )

    def warn_of_changes(self, folder: Path) -> None:
        """Log a warning of changes, once for each set of changes.

        Args:
            folder: where `keep` wrote.
        """
        changes = self.changes(thorough=False)
        if changes != self._reported:
            self._reported = changes
            if changes:
                log.warning(
                    "warning: inputs changed while this runs: %s; the run goes on with the recorded inputs, and its "
                    "result is published only after: %s",
                    "; ".join(change.text for change in changes),
                    self.undo(changes, folder),
                )
            else:
                log.info("the inputs are the recorded ones again")

    def md5_of_deps(self) -> dict[str, str]:
        """Return the md5 of each source and of each data, as recorded, and as DVC computes it."""
        md5 = {source: _combined(source, _within(source, self.md5)) for source in self.sources}
        for path, data in self.data.items():
            files = {name: value for name, (_, value) in data.files.items()}
            known = files and all(files.values())  # of large files it is not
            if known:
                md5[path] = _combined(path, files)
            elif data.md5 or Path(path).exists():  # a stage that DVC has not started may run without the compiled NMS
                md5[path] = data.md5 or content_md5(Path(path))
        return md5

    def undo(self, changes: Sequence[Change], folder: Path) -> str:
        """Return the shell command that brings back the changed inputs from the folder where `keep` wrote."""
        commands = []
        for path in dict.fromkeys(change.path for change in changes):
            if path in self.data:
                commands.append(self.data[path].restore)
            elif (folder / path).is_file():
                commands.append(shlex.join(["cp", _shown(folder / path), path]))
            else:
                commands.append(shlex.join(["rm", path]))
        return " && ".join(commands)

    def _changed_settings(self) -> Iterator[Change]:
        if not self.keys:
            return
        try:
            now = select(read_yaml(Path(self.params)), self.keys)
        except (InputError, OSError) as error:
            yield Change(str(error), self.params)
            return
        for key in sorted(self.settings.keys() | now.keys()):
            old, new = self.settings.get(key, ABSENT), now.get(key, ABSENT)
            if old != new:
                yield Change(f"{key}: {old!r} -> {new!r}", self.params)

    def changed_sources(self) -> Iterator[Change]:
        """Return how the project's files differ from the record."""
        now = {path: _md5(content) for path, content in _read(self.sources)}
        for path in sorted(self.md5.keys() | now.keys()):
            if self.md5.get(path) != now.get(path):
                what = "is new" if path not in self.md5 else "edited" if path in now else "removed"
                yield Change(f"{path} {what}", path)

    def _changed_data(self, thorough: bool) -> Iterator[Change]:
        for path, data in self.data.items():
            now = _stats(path)
            if now.keys() != data.files.keys():
                yield Change(f"{path} has other files" if now else f"{path} removed", path)
            elif any(self._differs(name, stat, *data.files[name]) for name, stat in now.items()) or (
                thorough
                and any(stat != data.files[name][0] for name, stat in now.items() if stat[1] > LARGE)
                and not (data.md5 and content_md5(Path(path)) == data.md5)
            ):
                yield Change(f"{path} has other content", path)

    def _differs(self, name: str, now: Stat, before: Stat, md5: str) -> bool:
        if now == before:
            return False
        return now[1] != before[1] or bool(md5 and _small_md5(name, now) != md5)


def content_md5(path: Path) -> str:
    """Return the md5 of a file's content, or of a folder: over the md5 and name of each file, as DVC computes it."""
    if not path.is_dir():
        return _file_md5(path)
    return _combined(path.as_posix(), {p: _file_md5(Path(p)) for p in _files(str(path))})


def _combined(path: str, md5: Mapping[str, str]) -> str:
    """The md5 of a file or folder, from those of the files in it."""
    if path in md5:
        return md5[path]
    entries = [{"md5": value, "relpath": Path(name).relative_to(path).as_posix()} for name, value in md5.items()]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return f"{_md5(listing.encode())}.dir"


def _within(path: str, md5: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in md5.items() if Path(name).is_relative_to(path)}


def select(raw: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return the named settings, and those of the named sections, by dotted key; ABSENT for a missing one."""
    chosen: dict[str, Any] = {}
    for key in keys:
        value: Any = raw
        for part in key.split("."):
            value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
        chosen |= flatten({key: value})
    return chosen


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of settings and sections by dotted key; an empty section is a value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = flatten(value) if isinstance(value, dict) and value else {}
        flat |= {f"{key}.{name}": v for name, v in inner.items()} or {key: value}
    return flat


def _files(path: str) -> list[str]:
    """The file, or those in the folder that are not ignored; none if the path does not exist."""
    if not Path(path).is_dir():
        return [path] if Path(path).is_file() else []
    files = (p for p in Path(path).rglob("*") if p.is_file() and not any(map(_is_ignored, p.parts)))
    return sorted(p.as_posix() for p in files)


def _is_ignored(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED)


def _read(sources: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each file and its content; one that cannot be read (an editor may be replacing it) counts as absent."""
    for path in (path for source in sources for path in _files(source)):
        try:
            yield path, Path(path).read_bytes()
        except OSError:
            continue


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes() if Path(path).is_file() else b""


def _stats(path: str) -> dict[str, Stat]:
    stats: dict[str, Stat] = {}
    for name in _files(path):
        try:
            status = Path(name).stat()
        except OSError:  # removed since it was listed
            continue
        stats[name] = status.st_ino, status.st_size, status.st_mtime_ns
    return stats


def _small_md5(name: str, stat: Stat) -> str:
    """The md5 of a file's content, "" for a large file and for one that is gone."""
    try:
        return _file_md5(Path(name)) if stat[1] <= LARGE else ""
    except OSError:
        return ""


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _shown(path: Path) -> str:
    """The path, relative to the working directory if it lies in it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
