"""All faults of a data set's files told at once: the first on the screen, every one in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from m2det.errors import InputError
from m2det.text import printable

MAX_NAMED = 20  # faults that are printed; a file has all


class BadFiles(InputError):
    """Files of a data set are wrong.

    sentences: on each. summary: how many of which. advice: what to do, for the end of a sentence.
    """

    def __init__(self, sentences: Sequence[str], summary: str, advice: str) -> None:
        self.sentences, self.summary, self.advice = list(sentences), summary, advice
        super().__init__(f"{summary}: {'; '.join(sentences[:MAX_NAMED])}; {advice}")


@contextmanager
def faults_listed(path: Path) -> Iterator[None]:
    """Wrap what raises BadFiles: print the first sentences, write all to the file, and name it in the error."""
    path.unlink(missing_ok=True)  # of an earlier call, whose faults may be corrected
    try:
        yield
    except BadFiles as error:
        refuse(error.sentences, path, error.summary, error.advice)


def refuse(sentences: Sequence[str], path: Path, summary: str, advice: str) -> NoReturn:
    """Print the first sentences, write all to a file, and raise InputError.

    Args:
        sentences: on each fault.
        path: the file to write.
        summary: how many of what are wrong.
        advice: what to do.
    """
    if len(sentences) == 1:
        write_list(sentences, path)
        raise InputError(f"{summary}: {sentences[0]}; {advice}")
    print_first(sentences, path)
    count = min(len(sentences), MAX_NAMED)
    raise InputError(f"{summary}; {count} sentences on them are above, all in {path}; {advice}")


def print_first(sentences: Sequence[str], path: Path) -> None:
    """Print the first sentences, and write all to a file."""
    write_list(sentences, path)
    for sentence in sentences[:MAX_NAMED]:
        print(printable(sentence), flush=True)


def write_list(sentences: Sequence[str], path: Path) -> None:
    """Write the sentences to a file, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(printable, sentences)) + "\n", encoding="utf-8")
