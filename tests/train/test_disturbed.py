"""Whoever is killed, however: nothing is left, what was saved can be read, and the model becomes the same bytes."""

import random

import pytest

from tests.train.disturb import KINDS, disturb, finished, working_copy

pytestmark = pytest.mark.slow
SEED = 49


@pytest.fixture(scope="module")
def undisturbed(material, tmp_path_factory):
    return finished(working_copy(tmp_path_factory.mktemp("undisturbed") / "copy", material))


@pytest.mark.parametrize("kind", KINDS)
def test_a_disturbed_training_ends_with_the_same_bytes(material, undisturbed, tmp_path, kind):
    """One seeded moment; `make stress` has twenty of each kind."""
    folder = working_copy(tmp_path / "copy", material)
    moment = random.Random(f"{SEED} {kind}").uniform(4, 12)
    hit, seconds = disturb(folder, kind, moment)
    assert hit, "the training was over before its moment"
    assert seconds < 30
    assert finished(folder) == undisturbed
