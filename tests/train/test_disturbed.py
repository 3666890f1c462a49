"""Whoever is killed, however: nothing is left, what was saved can be read, and the model becomes the same bytes."""

import random
from functools import cache

import pytest

from tests.train.disturb import KINDS, ONE, disturb, finished, of, working_copy

pytestmark = pytest.mark.slow
SEED = 49


@pytest.fixture(scope="module")
def undisturbed(material, tmp_path_factory):
    """The bytes of a kind's undisturbed training."""

    @cache
    def by(processes):
        changes = ONE if processes == 1 else {}
        return finished(working_copy(tmp_path_factory.mktemp("undisturbed") / "copy", material, **changes))

    return lambda kind: by(of(kind).get("processes", 2))


# "bit flip" kills a rank before; test_distributed.py kills a launcher, test_full_disk.py fills a disk, and
# tests/pipeline/test_records.py edits
SHOWN = ("stage SIGTERM", "alone SIGKILL", "bit flip")


@pytest.mark.parametrize(
    "kind", [*SHOWN, *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS if kind not in SHOWN)]
)
def test_a_disturbed_training_ends_with_the_same_bytes(material, undisturbed, tmp_path, kind):
    """One seeded moment; `make stress` has twenty of each kind."""
    folder = working_copy(tmp_path / "copy", material, **of(kind))
    moment = random.Random(f"{SEED} {kind}").uniform(*((2, 4) if of(kind) else (3, 6)))
    hit, seconds = disturb(folder, kind, moment)
    assert hit, "the training was over before its moment"
    assert seconds < 30
    assert finished(folder) == undisturbed(kind)
