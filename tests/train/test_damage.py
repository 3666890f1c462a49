"""Nothing damaged is believed: checkpoints, best weights, what processes hand over, the backbone."""

import json
import shutil

import pytest
import torch

from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.errors import InputError
from m2det.files.torch_file import load_checked, save_checked
from m2det.model import build_model
from m2det.model.pretrained import load_initial
from m2det.train.checkpoint import checkpoints, load_state, save_state
from m2det.train.rank import RESULT_NAME, train_distributed
from m2det.train.state import Callbacks
from tests.training import interrupt_at_5, run, settings


def flip(path, where=0.6):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 4
    path.write_bytes(data)


def zero(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    path.write_bytes(data)


def make_folder(path):
    path.unlink()
    path.mkdir()
    (path / "file").touch()


DAMAGES = {
    "a bit": flip,
    "a bit of the checksum": lambda path: flip(path, 0.9999999),
    "5,000 zeroes": zero,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "cut by its checksum": lambda path: path.write_bytes(path.read_bytes()[:-46]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": make_folder,
    "text": lambda path: path.write_text("text"),
    "a list": lambda path: torch.save([1, 2], path),
    "a list with a checksum": lambda path: save_checked(path, [1, 2]),
    "another step's": lambda path: shutil.copy(path.with_name("step-000000004.pt"), path),
    "of an earlier version": lambda path: torch.save(torch.load(path, weights_only=True), path),
}


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    return run(material, tmp_path_factory.mktemp("whole"), settings())


@pytest.fixture(scope="module")
def stopped(material, tmp_path_factory):
    """A folder with the checkpoints of steps 4 and 5, of 9."""
    folder = tmp_path_factory.mktemp("stopped")
    interrupt_at_5(material, folder, settings(save_every=1))
    assert [path.name[-4:-3] for path in checkpoints(folder / "state")] == ["4", "5"]
    return folder


@pytest.fixture
def unfinished(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "unfinished")


def same(a, b):
    wanted = b.model.state_dict()
    return a.rows == b.rows and all(torch.equal(value, wanted[key]) for key, value in a.model.state_dict().items())


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_taken(unfinished, damage, caplog):
    newest = checkpoints(unfinished / "state")[-1]
    DAMAGES[damage](newest)
    assert load_state(unfinished / "state")["step"] == 4
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"warning: {newest} ")


@pytest.mark.parametrize("damage", ["a bit", pytest.param("a folder", marks=pytest.mark.long)])
def test_a_run_with_a_damaged_checkpoint_ends_as_the_undisturbed_one(material, unfinished, whole, damage):
    DAMAGES[damage](checkpoints(unfinished / "state")[-1])
    assert same(run(material, unfinished, settings(save_every=2)), whole)
    assert all(path.is_file() for path in checkpoints(unfinished / "state")), "what was passed over is removed"


def test_without_any_good_checkpoint_one_sentence_says_so(unfinished):
    for path in checkpoints(unfinished / "state"):
        zero(path)
    with pytest.raises(InputError, match=r"can be used \(.*step-000000004.pt is damaged: .*sha256.*delete the folder"):
        load_state(unfinished / "state")


def test_another_versions_checkpoint_is_not_read_by_halves(tmp_path):
    save_state(tmp_path, {"step": 3, "version": 3})
    with pytest.raises(InputError, match=r"has version 3, this code reads 5: finish the training with the code"):
        load_state(tmp_path)


def test_half_written_files_of_a_killed_run_go(material, unfinished):
    (unfinished / "state/step-000000006.pt.tmp").write_bytes(b"half")
    run(material, unfinished, settings())
    assert not list((unfinished / "state").glob("*.tmp"))


class SecondIsBest(Callbacks):
    """Epoch 2 has the highest AP, however often it is evaluated; `stop`: the step after which to stop."""

    def __init__(self, stop=None):
        self.stop = stop

    def on_step_begin(self, state):
        if state.step == self.stop:
            raise KeyboardInterrupt

    def on_evaluated(self, state, metrics):
        metrics |= {"AP": {1: 0.1, 2: 0.6, 3: 0.4}[state.epoch], "AP50": 0.0}


def stop_at(step, material, folder, params):
    with pytest.raises(KeyboardInterrupt):
        run(material, folder, params, SecondIsBest(step))


@pytest.fixture(scope="module")
def evaluated(material, tmp_path_factory):
    """A folder with the checkpoint of step 6, of 9, and what its evaluation has added."""
    folder = tmp_path_factory.mktemp("evaluated")
    stop_at(6, material, folder, settings())
    names = [path.name for path in (folder / "state").glob("step-*")]
    assert sorted(names) == ["step-000000003.pt", "step-000000006.evaluated", "step-000000006.pt"]
    return folder


class Evaluations(SecondIsBest):
    """Note the epochs that are evaluated."""

    def __init__(self):
        self.stop, self.epochs = None, []

    def on_evaluated(self, state, metrics):
        super().on_evaluated(state, metrics)
        self.epochs.append(state.epoch)


OF_AN_EVALUATION = ["a bit", "cut", "empty", "a folder", "a list with a checksum", "another step's"]


@pytest.mark.parametrize("damage", OF_AN_EVALUATION)
def test_a_damaged_evaluation_counts_as_none(evaluated, tmp_path, damage, caplog):
    folder = shutil.copytree(evaluated / "state", tmp_path / "state")
    whole, record = load_state(folder), folder / "step-000000006.evaluated"
    assert whole["rows"][-1]["AP"] == 0.6 and not whole["pending_evaluation"] and whole["losses"]["steps"] == 0
    if damage == "another step's":
        save_checked(record, load_checked(record) | {"step": 3})
    else:
        DAMAGES[damage](record)
    state = load_state(folder)
    assert state["step"] == 6 and state["pending_evaluation"] and len(state["rows"]) == 1
    [warning] = [entry.message for entry in caplog.records if entry.levelname == "WARNING"]
    assert warning.startswith(f"warning: {record} ") and warning.endswith("the evaluation after step 6 runs again")


@pytest.mark.parametrize(
    ("damage", "epochs"), [("none", [3]), ("a bit", [2, 3]), pytest.param("a folder", [2, 3], marks=pytest.mark.long)]
)
def test_an_evaluation_runs_again_only_where_its_record_is_damaged(
    material, evaluated, whole_of_three, tmp_path, damage, epochs
):
    folder, again = shutil.copytree(evaluated, tmp_path / "copy"), Evaluations()
    if damage != "none":
        DAMAGES[damage](folder / "state/step-000000006.evaluated")
    assert same(run(material, folder, settings(), again), whole_of_three)
    assert again.epochs == epochs


@pytest.fixture(scope="module")
def whole_of_three(material, tmp_path_factory):
    return run(material, tmp_path_factory.mktemp("whole"), settings(), SecondIsBest())


@pytest.mark.slow
def test_damaged_best_weights_are_made_again(material, tmp_path):
    """By the evaluation that named them, which runs again: published is what the log says."""
    how = settings(save_every=1, evaluate_every=1, keep="best")
    wanted = run(material, tmp_path / "wanted", how, SecondIsBest())
    assert wanted.kept_epoch == 2
    stop_at(6, material, tmp_path, how)
    for path in (tmp_path / "state").glob("best-000002.pt*"):
        flip(path)
    state = load_state(tmp_path / "state")
    assert state["step"] == 6 and state["pending_evaluation"] and state["best"]["epoch"] == 1
    found = run(material, tmp_path, how, SecondIsBest())
    assert found.kept_epoch == 2 and same(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["best-000002.pt", "best-000002.pt.copy"])
def test_best_weights_have_a_copy(material, tmp_path, which):
    """All later checkpoints rely on them: the one before would be of no help."""
    how = settings(save_every=1, evaluate_every=1, keep="best")
    wanted = run(material, tmp_path / "wanted", how, SecondIsBest())
    stop_at(8, material, tmp_path, how)
    flip(tmp_path / "state" / which)
    assert load_state(tmp_path / "state")["step"] == 8
    found = run(material, tmp_path, how, SecondIsBest())
    assert found.kept_epoch == 2 and same(found, wanted)


@pytest.mark.parametrize("damage", ["a bit", pytest.param("absent", marks=pytest.mark.long)])
def test_best_weights_that_cannot_be_made_again_are_one_sentence(material, tmp_path, damage):
    """Neither another epoch's weights nor the last ones are published in their place."""
    how = settings(save_every=1, evaluate_every=1, keep="best")
    stop_at(8, material, tmp_path, how)
    for path in (tmp_path / "state").glob("best-000002.pt*"):
        flip(path) if damage == "a bit" else path.unlink()
    with pytest.raises(InputError, match=r"no checkpoint in .*best-000002\.pt.* .*delete the folder to start anew"):
        run(material, tmp_path, how, SecondIsBest())


def test_a_damaged_outcome_of_processes_is_one_sentence(material, tmp_path):
    def child(*_, **__):
        save_checked(tmp_path / RESULT_NAME, {"model": {"a": torch.zeros(1000)}})
        flip(tmp_path / RESULT_NAME)

    with pytest.raises(InputError, match=r"outcome\.pt is damaged: .* give the same command again"):
        train_distributed(settings(), tmp_path / "params.yaml", *material, tmp_path, 2, child)


@pytest.mark.parametrize("where", [0.01, 0.5])
def test_a_damaged_backbone_is_one_sentence(material, tmp_path, where):
    backbone = shutil.copy(material[1], tmp_path / "backbone.safetensors")
    flip(backbone, where)
    with pytest.raises(InputError, match=r"backbone\.safetensors (is damaged|has no checksum)"):
        load_initial(build_model("m2det-tiny", 1), backbone, 0.5)


@pytest.mark.slow
def test_without_boxes_to_validate_on_the_last_weights_are_kept_and_it_says_why(material, tmp_path, caplog):
    """AP is -1 then: no epoch is the best."""
    cache = shutil.copytree(material[0], tmp_path / "cache")
    given = material[0].parent / "a.json"
    (tmp_path / "empty.json").write_text(json.dumps(json.loads(given.read_text()) | {"annotations": []}))
    parts = {"train": given, "val": tmp_path / "empty.json"}
    splits = {name: read_split([(path, given.parent / "images")]) for name, path in parts.items()}
    entries = {name: write_split(cache, name, split) for name, split in splits.items()}
    finish_cache(cache, splits["train"].categories, entries)
    wanted = run((cache, material[1]), tmp_path / "last", settings(epochs=2))
    found = run((cache, material[1]), tmp_path / "best", settings(epochs=2, keep="best"))
    assert same(found, wanted) and found.kept_epoch == 2 and found.rows[-1]["AP"] == -1
    assert "train.keep is best, but no epoch has an AP" in caplog.text
